//! The CUDA sources on the host: each kernel run under emulation against plain arithmetic, and compiled for two GPUs when
//! the toolkit is there. No test needs a GPU, and none has ever run on one.

mod attention;
mod compile;
mod emulation;
mod faults;
mod lora;
mod numbers;
mod quantized;
mod rows;
