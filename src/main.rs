//! The `ringseed` binary. All of it is in the library, so that tests reach it.

/// Payloads are allocated on one thread and freed on another; this allocator is made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    ringseed::cli::main()
}
