//! Bytes that are a file's, too: a socket takes them from the file (`sendfile`), without a copy.
//!
//! They are `Bytes` like any others, in memory of their own, so that nothing above knows: where a slice of them reaches a socket, [`file_of`]
//! tells by its address which file holds the same.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;

/// Fewer bytes are copied faster than their file is found.
const BYTES_MIN: usize = 16 << 10;
/// Each takes a descriptor: further bytes are copied to sockets.
const FILES_MAX: usize = 1_024;

/// Files by the address at which their bytes begin.
static FILES: RwLock<BTreeMap<usize, (usize, Arc<File>)>> = RwLock::new(BTreeMap::new());

/// Bytes that leave the list before they go.
struct Filed(Vec<u8>);

impl AsRef<[u8]> for Filed {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Filed {
    fn drop(&mut self) {
        let mut files = FILES.write().unwrap_or_else(PoisonError::into_inner);
        files.remove(&self.0.as_ptr().addr());
    }
}

/// Reads a file of which nobody changes a byte as long as these are in use.
///
/// # Errors
/// Where it cannot be read.
pub fn read(mut file: File) -> std::io::Result<Bytes> {
    let len = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    let mut bytes = Vec::with_capacity(len);
    file.read_to_end(&mut bytes)?;
    let mut files = FILES.write().unwrap_or_else(PoisonError::into_inner);
    if bytes.len() < BYTES_MIN || files.len() >= FILES_MAX {
        return Ok(bytes.into());
    }
    files.insert(bytes.as_ptr().addr(), (bytes.len(), Arc::new(file)));
    drop(files);
    Ok(Bytes::from_owner(Filed(bytes)))
}

/// The file that holds the bytes of a slice, and where in it; `None` for other slices, and for short ones.
pub fn file_of(slice: &[u8]) -> Option<(Arc<File>, u64)> {
    if slice.len() < BYTES_MIN {
        return None;
    }
    let at = slice.as_ptr().addr();
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    let (begin, (len, file)) = files.range(..=at).next_back()?;
    let offset = at.checked_sub(*begin)?;
    let is_inside = offset.checked_add(slice.len())? <= *len;
    is_inside.then(|| Some((Arc::clone(file), u64::try_from(offset).ok()?)))?
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        File::open(file.path()).unwrap()
    }

    #[test]
    fn a_slice_is_found_in_its_file_and_other_bytes_are_not() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let filed = read(file(&bytes)).unwrap();
        assert_eq!(filed, bytes);
        let slice = filed.slice(70_000..);
        let (file, offset) = file_of(&slice).unwrap();
        let mut found = vec![0; slice.len()];
        file.read_exact_at(&mut found, offset).unwrap();
        assert_eq!((offset, found.as_slice()), (70_000, &*slice));
        assert!(file_of(&bytes).is_none(), "of no file");
        assert!(file_of(&filed[..100]).is_none(), "copied faster");
    }

    #[test]
    fn the_file_is_kept_for_as_long_as_a_slice_of_it() {
        let filed = read(file(&[1; BYTES_MIN])).unwrap();
        let weak = Arc::downgrade(&file_of(&filed).unwrap().0);
        let slice = filed.slice(1..2);
        drop(filed);
        assert!(weak.upgrade().is_some(), "a slice keeps it");
        drop(slice);
        assert!(weak.upgrade().is_none());
    }
}
