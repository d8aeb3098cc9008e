//! The kernels of `cuda/` on NVIDIA GPUs, from compute capability 8.0 on.
//!
//! Driver and run-time compiler are loaded when a [`Device`] is opened, so this builds and starts where neither is: opening
//! says what is missing. Sources are in the program; the machine needs the driver and NVRTC, no toolkit. Launchers check every
//! length, stride and index before a kernel sees it, and put work on [`Device::stream`] in the order they are called; nothing here waits
//! for it. The sources are tested on the host and compiled in tests; these launchers have not met a GPU yet.

mod attention;
mod device;
mod lora;
mod quantized;
mod rows;
mod sources;

pub use attention::{DecodeRow, KvLayer, PagedDecode, PagedPrefill, PrefillRun};
pub use device::{Device, Element};
pub use lora::{BgmvBatch, LoraWeights, SgmvBatch};
pub use quantized::QuantizedWeights;
pub use rows::{RopeAngles, Strided, kv_write, rms_norm, rope};
pub use sources::Source;

/// What can go wrong on a GPU, or before one is reached.
#[derive(Debug, thiserror::Error)]
pub enum CudaError {
    #[error(
        "no NVIDIA driver on this machine (libcuda was not found): install the driver, or choose the cpu backend"
    )]
    NoDriver,
    #[error(
        "no NVRTC on this machine (libnvrtc was not found): install the CUDA run-time compiler, or choose the cpu backend"
    )]
    NoCompiler,
    #[error("GPU {ordinal} has compute capability {major}.{minor}: the kernels need 8.0 or later")]
    TooOld {
        ordinal: usize,
        major: i32,
        minor: i32,
    },
    #[error("the GPU answers {0}")]
    Driver(#[from] cudarc::driver::DriverError),
    #[error("{source_file} does not compile for the GPU: {message}")]
    Compile {
        source_file: &'static str,
        message: String,
    },
    #[error("{what} of {given} where {needed} is needed")]
    Shape {
        what: &'static str,
        given: usize,
        needed: usize,
    },
}

/// Fails when `given` values are fewer than an op is going to touch.
fn at_least(what: &'static str, given: usize, needed: usize) -> Result<(), CudaError> {
    if given < needed {
        return Err(CudaError::Shape {
            what,
            given,
            needed,
        });
    }
    Ok(())
}

/// Fails when `given` is not exactly what is needed.
fn exactly(what: &'static str, given: usize, needed: usize) -> Result<(), CudaError> {
    if given != needed {
        return Err(CudaError::Shape {
            what,
            given,
            needed,
        });
    }
    Ok(())
}

/// A size as kernels take it.
fn int(what: &'static str, value: usize) -> Result<i32, CudaError> {
    i32::try_from(value).map_err(|_| CudaError::Shape {
        what,
        given: value,
        needed: i32::MAX as usize,
    })
}

/// How many values lie between the beginning of the first row and the end of the last.
fn span(rows: usize, stride: usize, width: usize) -> usize {
    rows.checked_sub(1)
        .map_or(0, |before| before * stride + width)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a machine without a GPU this is all there is to see: an error that says so, and no panic.
    #[test]
    fn opening_without_a_driver_says_what_is_missing() {
        match Device::open(0) {
            Err(error @ (CudaError::NoDriver | CudaError::NoCompiler)) => {
                assert!(error.to_string().contains("choose the cpu backend"));
            }
            Err(error) => println!("SKIPPED: this machine has a driver, which answers: {error}"),
            Ok(_) => println!("SKIPPED: this machine has a GPU"),
        }
    }

    #[test]
    fn lengths_are_named_when_they_are_wrong() {
        let error = at_least("rows of x", 5, 6).expect_err("too few");
        assert_eq!(error.to_string(), "rows of x of 5 where 6 is needed");
        assert!(exactly("rank", 8, 8).is_ok());
        assert_eq!(span(0, 10, 4), 0);
        assert_eq!(span(3, 10, 4), 24);
        assert!(int("rows", 1 << 31).is_err());
    }
}
