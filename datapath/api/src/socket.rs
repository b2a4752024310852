//! Where the admin socket is when nobody says.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// The admin socket of this user: `/run/l7mp/admin.sock` for root, else `$XDG_RUNTIME_DIR/l7mp/admin.sock` (or
/// `/run/user/<uid>/l7mp/admin.sock` where that is not set). The proxy listens there and its clients look there.
pub fn default_path() -> PathBuf {
    path_for(rustix::process::geteuid().as_raw(), std::env::var_os("XDG_RUNTIME_DIR").as_deref())
}

/// A relative directory is ignored, as the XDG specification asks for.
fn path_for(uid: u32, runtime_directory: Option<&OsStr>) -> PathBuf {
    let directory = match runtime_directory.map(Path::new).filter(|directory| directory.is_absolute()) {
        _ if uid == 0 => PathBuf::from("/run"),
        Some(directory) => directory.to_owned(),
        None => PathBuf::from(format!("/run/user/{uid}")),
    };
    directory.join("l7mp/admin.sock")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_user_has_a_place() {
        let place = |uid, directory: Option<&str>| path_for(uid, directory.map(OsStr::new)).display().to_string();
        assert_eq!(place(0, Some("/run/user/0")), "/run/l7mp/admin.sock");
        assert_eq!(place(1000, Some("/run/user/1000")), "/run/user/1000/l7mp/admin.sock");
        assert_eq!(place(1000, None), "/run/user/1000/l7mp/admin.sock");
        assert_eq!(place(1000, Some("")), "/run/user/1000/l7mp/admin.sock");
        assert_eq!(place(1000, Some("here")), "/run/user/1000/l7mp/admin.sock");
    }
}
