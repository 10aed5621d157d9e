"""The methods: a package each, whose `recipe` is where to begin, and what they share."""
