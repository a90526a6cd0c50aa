//! The lab's store directory as a configuration tool or an operator sees it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::{Lab, LabError};

/// A lease as it lies in the store.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LeaseFile {
    /// The subnet key, for example `10.77.3.0-24`.
    pub key: String,
    /// The file's text.
    pub text: String,
}

impl Lab {
    /// The directory that the daemons share: `config` and `subnets/`.
    pub fn store_dir(&self) -> PathBuf {
        self.directory().join("store")
    }

    /// Puts the network config there, or replaces it.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn write_config(&self, json: &str) -> Result<(), LabError> {
        put(&self.store_dir(), "config", json)
    }

    /// The leases, sorted by key.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn leases(&self) -> Result<Vec<LeaseFile>, LabError> {
        let directory = self.store_dir().join("subnets");
        let entries = match fs::read_dir(&directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(LabError::io("read", &directory, error)),
        };
        let mut leases = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| LabError::io("read", &directory, error))?;
            let key = entry.file_name().to_string_lossy().into_owned();
            if key.starts_with('.') {
                continue;
            }
            match fs::read_to_string(entry.path()) {
                Ok(text) => leases.push(LeaseFile { key, text }),
                // Renamed or removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(LabError::io("read", &entry.path(), error)),
            }
        }
        leases.sort();
        Ok(leases)
    }

    /// Puts a lease there, or replaces it, at once as a whole.
    ///
    /// # Errors
    /// [`LabError::Io`].
    pub fn put_lease(&self, key: &str, json: &str) -> Result<(), LabError> {
        put(&self.store_dir().join("subnets"), key, json)
    }

    /// Deletes a lease.
    ///
    /// # Errors
    /// [`LabError::Io`], also if there is none.
    pub fn delete_lease(&self, key: &str) -> Result<(), LabError> {
        let path = self.store_dir().join("subnets").join(key);
        fs::remove_file(&path).map_err(|error| LabError::io("delete", &path, error))
    }
}

fn put(directory: &Path, name: &str, text: &str) -> Result<(), LabError> {
    let hidden = directory.join(format!(".{name}.new"));
    let path = directory.join(name);
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(&hidden, text))
        .and_then(|()| fs::rename(&hidden, &path))
        .map_err(|error| LabError::io("write", &path, error))
}
