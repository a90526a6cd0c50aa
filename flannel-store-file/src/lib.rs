#![doc = include_str!("../README.md")]

mod directory;
mod disk;
mod entry;
mod filesystem;
mod notices;
mod requests;
mod view;
mod watch;

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use flannel_core::{ConfigStore, Lease, LeaseAttrs, StoreError, StoreEvent, SubnetKey, SubnetStore};
use futures_util::stream::BoxStream;

use crate::directory::{ConfigText, Directory, FileError};
use crate::disk::{Disk, Work};

/// How long a lease lives unless renewed, where nobody says otherwise: as with flannel and etcd.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 3600);

/// A store in a local directory, for all daemons of one machine.
///
/// Any number of them, in any number of processes, may use one directory at once.
#[derive(Debug)]
pub struct FileStore {
    disk: Arc<Disk>,
    ttl: Duration,
}

/// How a [`FileStore`] behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileStoreOptions {
    /// How long a lease lives after it was claimed or renewed. 24 hours unless said otherwise.
    pub ttl: Duration,
}

impl Default for FileStoreOptions {
    fn default() -> Self {
        Self { ttl: DEFAULT_TTL }
    }
}

impl FileStore {
    /// Opens the store in this directory, and makes the directory if it is missing. Blocks for a
    /// few system calls.
    ///
    /// # Errors
    ///
    /// [`StoreError::Unusable`] on a network file system, or where no directory can be;
    /// [`StoreError::Denied`] and [`StoreError::Unavailable`] when it cannot be made or listed.
    pub fn open(path: impl AsRef<Path>, options: FileStoreOptions) -> Result<Self, StoreError> {
        let path = path.as_ref();
        let place = path.display().to_string();
        let unusable = |problem: String| StoreError::Unusable {
            place: place.clone(),
            problem,
        };
        if options.ttl.is_zero() {
            return Err(unusable(
                "its leases would end at once; give them a time to live".to_owned(),
            ));
        }
        let failed = |error: FileError| match error.source.kind() {
            ErrorKind::AlreadyExists | ErrorKind::NotADirectory => unusable(format!(
                "{error}; choose another directory, or move that file away"
            )),
            _ => error.during(&format!("open the store {place}")),
        };
        let directory = Directory::new(path);
        let network = filesystem::network_file_system_of(path).map_err(|source| {
            failed(FileError {
                doing: "find the file system of",
                path: place.clone(),
                source,
            })
        })?;
        if let Some(name) = network {
            return Err(unusable(format!(
                "it lies on a network file system ({name}), where neither locks nor change notices \
                 are sure to reach other hosts; use a directory on a local disk, or etcd for several hosts"
            )));
        }
        directory.make().map_err(failed)?;
        directory.sweep().map_err(failed)?;
        Ok(Self {
            disk: Arc::new(Disk::new(directory)),
            ttl: options.ttl,
        })
    }

    fn doing(&self, what: &str, subnet: SubnetKey) -> String {
        format!("{what} {subnet} in {}", self.disk.directory.root.display())
    }
}

#[async_trait]
impl SubnetStore for FileStore {
    async fn watch(&self) -> Result<BoxStream<'static, StoreEvent>, StoreError> {
        Ok(watch::events(Arc::clone(&self.disk)))
    }

    async fn claim(
        &self,
        subnet: SubnetKey,
        seen: Option<&Lease>,
        attrs: &LeaseAttrs,
    ) -> Result<Lease, StoreError> {
        let (seen, attrs, ttl) = (seen.map(|seen| seen.token), attrs.clone(), self.ttl);
        let claim = move |directory: &Directory| requests::claim(directory, subnet, seen, attrs, ttl);
        let claimed = self.disk.locked(&self.doing("claim", subnet), claim).await?;
        claimed.ok_or(StoreError::Taken { subnet })
    }

    async fn keep(&self, own: &Lease, attrs: &LeaseAttrs) -> Result<Lease, StoreError> {
        let subnet = own.subnet;
        let (own, attrs, ttl) = (own.clone(), attrs.clone(), self.ttl);
        let keep = move |directory: &Directory| requests::keep(directory, &own, attrs, ttl);
        let kept = self.disk.locked(&self.doing("renew", subnet), keep).await?;
        kept.ok_or(StoreError::LeaseLost { subnet })
    }

    async fn release(&self, own: &Lease) -> Result<(), StoreError> {
        let doing = self.doing("release", own.subnet);
        let own = own.clone();
        self.disk
            .locked(&doing, move |directory| requests::release(directory, &own))
            .await
    }
}

#[async_trait]
impl ConfigStore for FileStore {
    async fn read_config(&self) -> Result<Option<String>, StoreError> {
        let doing = format!("read {}", self.disk.directory.config.display());
        let read = self
            .disk
            .run(Work::Request, &doing, |directory| Ok(directory.read_config()));
        match read.await? {
            ConfigText::Missing => Ok(None),
            ConfigText::Text(text) => Ok(Some(text)),
            ConfigText::Unreadable(reason) => Err(StoreError::Unavailable {
                doing,
                source: reason.into(),
            }),
        }
    }

    async fn write_config(&self, json: &str) -> Result<(), StoreError> {
        let doing = format!("write {}", self.disk.directory.config.display());
        let json = json.to_owned();
        self.disk
            .locked(&doing, move |directory| directory.write_config(&json))
            .await
    }
}
