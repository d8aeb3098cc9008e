//! Builds a `.cu` file with the machine's C++ compiler and launches its kernels on fibers.

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_char, c_void};
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, OnceLock};

/// 0 runs fibers and blocks in their natural order, others permute both.
pub const SEEDS: [u64; 3] = [0, 1, 2];

type Launch =
    unsafe extern "C" fn(*const c_char, *const u32, u64, *const *const c_void) -> *const c_char;

/// One built source file.
pub struct Library {
    /// The emulation's state is the library's: one launch at a time.
    launch: Mutex<Launch>,
}

/// An argument of a kernel.
#[derive(Clone, Copy)]
pub enum Arg {
    Pointer(*const c_void),
    Int(i32),
    Float(f32),
}

/// Where the sources lie.
pub fn sources() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda")
}

/// The machine's C++ compiler, and whether it is GCC.
fn compiler() -> Option<&'static (String, bool)> {
    static FOUND: OnceLock<Option<(String, bool)>> = OnceLock::new();
    let find = || {
        let named = std::env::var("CXX").ok();
        let usual = ["c++", "g++", "clang++"].map(str::to_owned);
        named.into_iter().chain(usual).find_map(|name| {
            let output = Command::new(&name).arg("--version").output().ok()?;
            let is_clang = String::from_utf8_lossy(&output.stdout).contains("clang");
            output.status.success().then_some((name, !is_clang))
        })
    };
    FOUND.get_or_init(find).as_ref()
}

/// Builds `source` once a process. `None`, said aloud, when the machine has no compiler.
///
/// # Panics
/// When the source does not compile.
pub fn library(source: &Path) -> Option<&'static Library> {
    type Built = HashMap<PathBuf, &'static OnceLock<Library>>;
    static BUILT: Mutex<Option<Built>> = Mutex::new(None);
    let Some((compiler, is_gcc)) = compiler() else {
        println!(
            "SKIPPED: emulated CUDA kernels, as no C++ compiler was found (c++, g++, clang++, CXX)"
        );
        return None;
    };
    let cell = *BUILT
        .lock()
        .expect("no test panics while it holds the list")
        .get_or_insert_default()
        .entry(source.to_owned())
        .or_insert_with(|| Box::leak(Box::default()));
    Some(cell.get_or_init(|| build(source, compiler, *is_gcc)))
}

fn build(source: &Path, compiler: &str, is_gcc: bool) -> Library {
    let name = source.file_stem().expect("a file").to_string_lossy();
    let shared = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("emulated-{name}-{}.so", std::process::id()));
    let mut command = Command::new(compiler);
    command
        .args([
            "-std=c++17",
            "-O1",
            "-fPIC",
            "-shared",
            "-fvisibility=hidden",
        ])
        // Sums as they are written. Warnings in our own sources are errors, but the device's pragmas are not the host's.
        .args([
            "-ffp-contract=off",
            "-Wall",
            "-Werror",
            "-Wno-unknown-pragmas",
        ])
        .args(["-Wno-unused-function", "-DEMULATE", "-x", "c++"])
        .arg("-I")
        .arg(sources());
    if is_gcc {
        // Two libraries would share the emulation's state, and each needs its own.
        command.arg("-fno-gnu-unique");
    }
    let output = command
        .arg(source)
        .arg("-o")
        .arg(&shared)
        .output()
        .expect("the compiler runs");
    assert!(
        output.status.success(),
        "{}:\n{}",
        source.display(),
        String::from_utf8_lossy(&output.stderr)
    );
    let path = CString::new(shared.to_string_lossy().as_bytes()).expect("no zero in a path");
    // SAFETY: a library built just now; its initialisers only fill its own list of kernels.
    let handle = unsafe { libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
    assert!(!handle.is_null(), "{} does not load", shared.display());
    // SAFETY: the handle is never closed.
    let symbol = unsafe { libc::dlsym(handle, c"emulate_launch".as_ptr()) };
    assert!(!symbol.is_null(), "no door in {}", shared.display());
    std::fs::remove_file(&shared).expect("a loaded library may lose its file");
    // SAFETY: emulate/cuda.h declares the function with this signature.
    let launch = unsafe { std::mem::transmute::<*mut c_void, Launch>(symbol) };
    Library {
        launch: Mutex::new(launch),
    }
}

impl Library {
    /// Runs a kernel over a grid of blocks of `threads`; the message when the emulation found a fault.
    pub fn try_launch(
        &self,
        kernel: &str,
        grid: [usize; 3],
        threads: usize,
        seed: u64,
        args: &[Arg],
    ) -> Result<(), String> {
        let launch = self
            .launch
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        let name = CString::new(kernel).expect("a kernel's name");
        let [x, y, z] = grid.map(|size| size as u32);
        let sizes = [x, y, z, threads as u32, 1, 1];
        let words: Vec<u64> = args
            .iter()
            .map(|arg| match arg {
                Arg::Pointer(pointer) => *pointer as u64,
                Arg::Int(value) => u64::from(value.cast_unsigned()),
                Arg::Float(value) => u64::from(value.to_bits()),
            })
            .collect();
        let places: Vec<*const c_void> =
            words.iter().map(|word| (&raw const *word).cast()).collect();
        // SAFETY: names and sizes outlive the call. That the arguments are the kernel's is what the test is about: a wrong
        // access past a buffer meets its guard page.
        let message = unsafe { launch(name.as_ptr(), sizes.as_ptr(), seed, places.as_ptr()) };
        if message.is_null() {
            return Ok(());
        }
        // SAFETY: a text of the library's, ended by zero, that stays until the next launch.
        Err(unsafe { CStr::from_ptr(message) }
            .to_string_lossy()
            .into_owned())
    }

    #[track_caller]
    pub fn launch(&self, kernel: &str, grid: [usize; 3], threads: usize, seed: u64, args: &[Arg]) {
        if let Err(message) = self.try_launch(kernel, grid, threads, seed, args) {
            panic!("{kernel}, seed {seed}: {message}");
        }
    }
}

/// Memory of the device: aligned to 16 bytes, and the page behind it cannot be touched.
pub struct Device<T: Copy> {
    map: *mut c_void,
    map_bytes: usize,
    start: *mut T,
    len: usize,
}

impl<T: Copy> Device<T> {
    pub fn new(values: &[T]) -> Device<T> {
        const PAGE: usize = 4096;
        let bytes = size_of_val(values).next_multiple_of(16);
        let pages = bytes.next_multiple_of(PAGE);
        let map_bytes = pages + PAGE;
        // SAFETY: a new mapping, of no file.
        let map = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                map_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert_ne!(map, libc::MAP_FAILED, "no memory");
        // SAFETY: inside the mapping: `bytes` before its last page, as many as the values need.
        let start = unsafe {
            libc::mprotect(map.byte_add(pages), PAGE, libc::PROT_NONE);
            let start = map.byte_add(pages - bytes).cast::<T>();
            start.copy_from_nonoverlapping(values.as_ptr(), values.len());
            start
        };
        Device {
            map,
            map_bytes,
            start,
            len: values.len(),
        }
    }

    pub fn arg(&self) -> Arg {
        Arg::Pointer(self.start.cast())
    }

    /// The address, as tables of matrices hold it.
    pub fn address(&self) -> u64 {
        self.start as u64
    }
}

impl<T: Copy> Deref for Device<T> {
    type Target = [T];
    fn deref(&self) -> &[T] {
        // SAFETY: `len` values were written there, and kernels run only inside `launch`.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }
}

impl<T: Copy> DerefMut for Device<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T: Copy> Drop for Device<T> {
    fn drop(&mut self) {
        // SAFETY: made by `new`, and nobody's any more.
        unsafe { libc::munmap(self.map, self.map_bytes) };
    }
}
