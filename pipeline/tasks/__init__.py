NAMES = ("sudoku",)
