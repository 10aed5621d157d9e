"""The commands of `raid`, a file a topic; a method and its libraries are imported when they are asked for."""
