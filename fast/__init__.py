"""The synthesis network computed fast: folded weights, C kernels on a CPU, CUDA graphs."""
