//! How much memory the C library keeps for itself.

/// Lets all threads allocate from two arenas at most. glibc gives each thread an arena of its own and keeps in it what was freed: a sync, which passes
/// buffers of many megabytes from thread to thread, would hold several of them for nothing (190 to 280 MiB instead of 165, measured). Called before
/// there are threads.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub(crate) fn keep_little() {
    const ARENAS: libc::c_int = 2;
    // SAFETY: mallopt only sets a number of the allocator, under the allocator's own lock; it takes no pointers. If it refuses, nothing is changed.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, ARENAS);
    }
}

/// Other C libraries have nothing to set.
#[cfg(not(target_env = "gnu"))]
pub(crate) fn keep_little() {}
