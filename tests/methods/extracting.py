"""`raid extract` with a thin network, in parts of 8 images of which each takes a moment: to be killed."""

import sys
import time

import thin_resnet

from raid.cli import main
from raid.methods.answers import extraction
from raid.methods.answers.parts import Parts

write = Parts.write


def slow(*arguments):
    write(*arguments)
    time.sleep(0.5)


if __name__ == "__main__":
    extraction.PART_ROWS = 8
    Parts.write = slow
    with thin_resnet.in_use():
        sys.exit(main(["extract", *sys.argv[1:]]))
