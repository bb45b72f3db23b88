"""What decides the results of a sweep: the function, the settings, the libraries; and how two of these differ."""
