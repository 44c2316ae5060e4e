//! What the libraries under this program are told when it starts: the one place with unsafe code.
//!
//! By default glibc's allocator guesses from what was freed before, and guesses wrong for both of this program's lives. libtorch's oneDNN
//! compiles a kernel for every shape of a convolution and keeps a thousand, which are fewer than a space's children have.

/// Keeps freed memory in the process from now on, for the next who asks: to be called before the first thread starts.
///
/// Training and serving allocate and free the same large buffers at every step and every run. By default each is returned to the
/// system, which zeroes it page by page at the next use: a step takes up to 1.5 times as long, and a worker of the server spent a
/// third of its time so.
pub fn keep_freed_memory() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        const LARGEST: libc::c_int = 1 << 30;
        // As large as a thread's heap: such a heap is then never returned, not even with its last block.
        const TOP_PAD: libc::c_int = 64 << 20;
        advise(&[(libc::M_MMAP_THRESHOLD, LARGEST), (libc::M_TRIM_THRESHOLD, LARGEST), (libc::M_TOP_PAD, TOP_PAD)]);
    }
}

/// Suits the process to training: to be called before the first thread starts.
///
/// All threads share one heap: a step's buffers can be larger than a heap of a thread's own, and what one thread frees another asks for
/// next. A server must not do so: a thread that builds a child, and runs only when nobody else wants to, would hold the heap's lock while a
/// network waits for it. And oneDNN keeps what it compiled for every child so far, unless the environment says how much it may keep.
#[expect(unsafe_code, reason = "no other thread may use the environment meanwhile")]
pub fn suit_training() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    advise(&[(libc::M_ARENA_MAX, 1)]);
    if ["ONEDNN_PRIMITIVE_CACHE_CAPACITY", "DNNL_PRIMITIVE_CACHE_CAPACITY"].iter().all(|name| std::env::var_os(name).is_none()) {
        // SAFETY: there is no other thread yet, as this function asks of its caller.
        unsafe { std::env::set_var("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16384") };
    }
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "mallopt is a C function")]
fn advise(advice: &[(libc::c_int, libc::c_int)]) {
    for &(parameter, value) in advice {
        // SAFETY: mallopt takes two integers, keeps no pointer, locks the arena itself, and refuses what it does not know.
        let _accepted = unsafe { libc::mallopt(parameter, value) };
    }
}

/// Returns what is free now to the system.
///
/// Building and loading a child takes several copies of its weights, and large batches, for a moment, and a training leaves gaps between
/// its buffers; their memory would stay with the process.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "malloc_trim is a C function")]
pub fn return_freed_memory() {
    // SAFETY: malloc_trim takes an integer, keeps no pointer, locks the arenas itself, and touches only free memory.
    let _returned = unsafe { libc::malloc_trim(0) };
}

/// Other allocators need no such advice.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn return_freed_memory() {}
