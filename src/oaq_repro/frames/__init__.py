"""A precision per frame: both stages of training, the integer graphs of all widths, the controls."""
