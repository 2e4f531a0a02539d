//! The `hubgate` program. Everything is in the library.

fn main() -> std::process::ExitCode {
    hubgate::cli::run()
}
