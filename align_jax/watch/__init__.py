"""What watches over a run: whether it moves, whether it learns, whether it is told to stop."""
