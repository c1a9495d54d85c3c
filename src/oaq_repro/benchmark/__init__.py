"""Fair timings of kernels and models, beside other runtimes."""
