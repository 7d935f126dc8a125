"""``python -m cryodrgn_ext``, as torchrun needs it."""

from cryodrgn_ext.cli import main

if __name__ == "__main__":
    main(prog_name="cryodrgn-ext")
