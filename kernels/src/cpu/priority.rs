//! The engine yields to the proxy: same cores, lower priority.

/// Mild: under contention the proxy's threads get about three times the engine's share, and an idle machine loses nothing.
#[cfg(target_os = "linux")]
const NICENESS: libc::c_int = 5;

/// Lowers the calling thread's priority. Where that is not possible nothing changes.
pub fn lower_thread_priority() {
    #[cfg(target_os = "linux")]
    // SAFETY: a plain system call; process id 0 means the calling thread on Linux. It can only fail, harmlessly.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
    }
}
