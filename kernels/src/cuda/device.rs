//! A GPU: its streams, and its kernels, compiled when first used.

use super::{CudaError, Source};
use cudarc::driver::{
    CudaContext, CudaFunction, CudaModule, CudaSlice, CudaStream, DeviceRepr, LaunchConfig,
    ValidAsZeroBits,
};
use cudarc::nvrtc::{CompileError, CompileOptions, Ptx, compile_ptx_with_opts};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// What kernels are compiled for.
pub trait Element: DeviceRepr + ValidAsZeroBits + Copy + 'static {
    /// As the kernels' names have it.
    const NAME: &'static str;
    /// Zero on the host.
    const ZERO: Self;
}

impl Element for f32 {
    const NAME: &'static str = "f32";
    const ZERO: f32 = 0.0;
}

impl Element for half::f16 {
    const NAME: &'static str = "f16";
    const ZERO: half::f16 = half::f16::ZERO;
}

impl Element for half::bf16 {
    const NAME: &'static str = "bf16";
    const ZERO: half::bf16 = half::bf16::ZERO;
}

/// One GPU. Cheap to share; a launch takes a lock only to find its kernel.
pub struct Device {
    stream: Arc<CudaStream>,
    copies: Arc<CudaStream>,
    context: Arc<CudaContext>,
    modules: Mutex<HashMap<Source, Arc<CudaModule>>>,
    kernels: Mutex<HashMap<String, CudaFunction>>,
}

impl Device {
    /// Opens GPU `ordinal`. Kernels are compiled when first used, 0.1 to 2 seconds a file, once a process.
    pub fn open(ordinal: usize) -> Result<Device, CudaError> {
        // Without these cudarc panics on its first call.
        if !has_driver() {
            return Err(CudaError::NoDriver);
        }
        if !has_compiler() {
            return Err(CudaError::NoCompiler);
        }
        let context = CudaContext::new(ordinal)?;
        let (major, minor) = context.compute_capability()?;
        if major < 8 {
            return Err(CudaError::TooOld {
                ordinal,
                major,
                minor,
            });
        }
        // Two streams from the start: with more than one cudarc records who reads and writes what, and waits for it.
        let (stream, copies) = (context.new_stream()?, context.new_stream()?);
        Ok(Device {
            stream,
            copies,
            context,
            modules: Mutex::default(),
            kernels: Mutex::default(),
        })
    }

    /// Where kernels run, in the order they are launched.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Where adapters are copied while kernels run. What reads such a copy first waits for its event.
    pub fn copy_stream(&self) -> &Arc<CudaStream> {
        &self.copies
    }

    /// Copies `values` to the GPU, before what is launched next. Of none there is one zero: the driver gives no empty memory.
    pub fn upload<T: DeviceRepr + ValidAsZeroBits>(
        &self,
        values: &[T],
    ) -> Result<CudaSlice<T>, CudaError> {
        if values.is_empty() {
            return Ok(self.stream.alloc_zeros(1)?);
        }
        Ok(self.stream.clone_htod(values)?)
    }

    /// Memory for `len` results, and for one at least, zero.
    pub fn zeros<T: Element>(&self, len: usize) -> Result<CudaSlice<T>, CudaError> {
        Ok(self.stream.alloc_zeros(len.max(1))?)
    }

    /// A kernel by name; compiles its file when this is the first of it.
    pub(super) fn kernel(&self, source: Source, name: &str) -> Result<CudaFunction, CudaError> {
        let mut kernels = self.kernels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kernel) = kernels.get(name) {
            return Ok(kernel.clone());
        }
        let mut modules = self.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let module = match modules.get(&source) {
            Some(module) => module.clone(),
            None => {
                let module = self.context.load_module(compile(source)?)?;
                modules.insert(source, module.clone());
                module
            }
        };
        let kernel = module.load_function(name)?;
        kernels.insert(name.to_owned(), kernel.clone());
        Ok(kernel)
    }
}

pub(super) fn has_driver() -> bool {
    // SAFETY: opens and closes a library by the names the driver has; its initialisers are NVIDIA's.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

pub(super) fn has_compiler() -> bool {
    // SAFETY: as above, for the run-time compiler.
    unsafe { cudarc::nvrtc::sys::is_culib_present() }
}

/// PTX of a file, compiled once a process. For capability 8.0: the driver of each later GPU makes its own code of it.
pub(super) fn compile(source: Source) -> Result<Ptx, CudaError> {
    static COMPILED: OnceLock<Mutex<HashMap<Source, Ptx>>> = OnceLock::new();
    let mut compiled = COMPILED
        .get_or_init(Mutex::default)
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    if let Some(ptx) = compiled.get(&source) {
        return Ok(ptx.clone());
    }
    let options = CompileOptions {
        arch: Some("compute_80"),
        name: Some(source.file().to_owned()),
        options: vec!["--std=c++17".to_owned()],
        ..CompileOptions::default()
    };
    let ptx =
        compile_ptx_with_opts(source.text(), options).map_err(|error| CudaError::Compile {
            source_file: source.file(),
            message: match error {
                CompileError::CompileError { log, .. } => log.to_string_lossy().into_owned(),
                other => other.to_string(),
            },
        })?;
    compiled.insert(source, ptx.clone());
    Ok(ptx)
}

/// A grid of blocks of `threads`.
///
/// # Errors
/// When it is larger than a GPU's: 65,535 blocks down and deep.
pub(super) fn blocks(grid: [usize; 3], threads: usize) -> Result<LaunchConfig, CudaError> {
    const MOST: [usize; 3] = [i32::MAX as usize, 65_535, 65_535];
    for (given, most) in grid.into_iter().zip(MOST) {
        if given > most {
            let what = "a grid of blocks";
            return Err(CudaError::Shape {
                what,
                given,
                needed: most,
            });
        }
    }
    let [x, y, z] = grid.map(|size| size as u32);
    Ok(LaunchConfig {
        grid_dim: (x, y, z),
        block_dim: (threads as u32, 1, 1),
        shared_mem_bytes: 0,
    })
}

/// Launches a kernel. Nothing happens over an empty grid.
///
/// The arguments' number, types and order are the kernel's own, and the caller has checked that they cover what it touches;
/// each place that uses this says how.
macro_rules! launch {
    ($device:expr, $source:expr, $name:expr, $grid:expr, $threads:expr, [$($arg:expr),* $(,)?]) => {{
        let grid: [usize; 3] = $grid;
        if !grid.contains(&0) {
            let kernel = $device.kernel($source, &$name)?;
            let mut builder = $device.stream().launch_builder(&kernel);
            $(cudarc::driver::PushKernelArg::arg(&mut builder, $arg);)*
            let config = $crate::cuda::device::blocks(grid, $threads)?;
            // SAFETY: the arguments are those of the kernel in cuda/, and the caller has checked that memory covers them.
            unsafe { builder.launch(config) }?;
        }
    }};
}
pub(super) use launch;
