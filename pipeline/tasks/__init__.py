NAMES = ("antibody", "checkerboard", "countdown", "gsm8k", "math500", "pinwheel", "reasoning_gym", "sudoku")
