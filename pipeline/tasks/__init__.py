NAMES = ("checkerboard", "pinwheel", "sudoku")
