//! Bytes that a socket takes without a copy: they lie in a sealed memory file, and `sendfile` hands its pages on.
//!
//! They are `Bytes` like any others, so that nothing above knows: where a slice of them reaches a socket, [`file_of`] tells by its address which
//! file it is a part of. A sealed file can be neither written nor cut by anybody, this process included, so that the mapping holds for as long
//! as it is there.

// Mapping a file is unsafe because others may change it; the seals forbid that.
#![allow(unsafe_code)]

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write as _};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use memmap2::{Mmap, MmapOptions};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Each takes a descriptor and a mapping: further bytes stay where they are.
const FILES_MAX: usize = 1_024;

/// Files by the address at which they begin.
static FILES: RwLock<BTreeMap<usize, (usize, Arc<File>)>> = RwLock::new(BTreeMap::new());

/// A mapping that leaves the list before it goes.
struct Sealed(Mmap);

impl AsRef<[u8]> for Sealed {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Drop for Sealed {
    fn drop(&mut self) {
        let mut files = FILES.write().unwrap_or_else(PoisonError::into_inner);
        files.remove(&self.0.as_ptr().addr());
    }
}

/// The same bytes, in a sealed file; as they are where there are too many already, or the kernel refuses.
pub fn seal(bytes: Bytes) -> Bytes {
    let is_full = FILES.read().unwrap_or_else(PoisonError::into_inner).len() >= FILES_MAX;
    if bytes.is_empty() || is_full {
        return bytes;
    }
    match sealed(&bytes) {
        Ok(sealed) => sealed,
        Err(error) => {
            tracing::debug!(%error, "no memory file: bytes are copied to sockets instead");
            bytes
        }
    }
}

fn sealed(bytes: &[u8]) -> io::Result<Bytes> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"segment", flags)?);
    file.write_all(bytes)?;
    let seals = SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE
        | SealFlag::F_SEAL_SEAL;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals))?;
    // SAFETY: the seals hold for the file's life, so that nobody changes or cuts what is mapped.
    let map = unsafe { MmapOptions::new().len(bytes.len()).map_copy_read_only(&file)? };
    let entry = (map.len(), Arc::new(file));
    let mut files = FILES.write().unwrap_or_else(PoisonError::into_inner);
    files.insert(map.as_ptr().addr(), entry);
    drop(files);
    Ok(Bytes::from_owner(Sealed(map)))
}

/// The file that a slice lies in, and where in it; `None` for slices of other memory.
pub fn file_of(slice: &[u8]) -> Option<(Arc<File>, u64)> {
    let at = slice.as_ptr().addr();
    let files = FILES.read().unwrap_or_else(PoisonError::into_inner);
    let (begin, (len, file)) = files.range(..=at).next_back()?;
    let offset = at.checked_sub(*begin)?;
    let is_inside = offset.checked_add(slice.len())? <= *len;
    is_inside.then(|| Some((Arc::clone(file), u64::try_from(offset).ok()?)))?
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn sealed_bytes_are_the_same_bytes_and_each_slice_is_found_in_its_file() {
        let bytes: Vec<u8> = (0..100_000_u32).map(|n| n as u8).collect();
        let sealed = seal(bytes.clone().into());
        assert_eq!(sealed, bytes);
        let slice = sealed.slice(70_000..70_010);
        let (file, offset) = file_of(&slice).unwrap();
        let mut read = [0; 10];
        file.read_exact_at(&mut read, offset).unwrap();
        assert_eq!((offset, read.as_slice()), (70_000, &*slice));
        assert!(file_of(&bytes).is_none(), "not in a file");
    }

    #[test]
    fn nobody_can_change_or_cut_what_was_sealed() {
        let sealed = seal(vec![1; 5_000].into());
        let (file, _) = file_of(&sealed).unwrap();
        assert!(file.write_at(&[2], 0).is_err());
        assert!(file.set_len(10).is_err());
        assert!(fcntl(&*file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_FUTURE_WRITE)).is_err());
    }

    #[test]
    fn what_is_dropped_is_in_the_list_no_more() {
        let sealed = seal(vec![1; 5_000].into());
        let begin = sealed.as_ptr().addr();
        assert!(FILES.read().unwrap().contains_key(&begin));
        let slice = sealed.slice(1..2);
        drop(sealed);
        assert!(FILES.read().unwrap().contains_key(&begin), "a slice keeps it");
        drop(slice);
        // Another test's file may have taken the address at once.
        let files = FILES.read().unwrap();
        assert!(files.get(&begin).is_none_or(|(len, _)| *len != 5_000 || files.len() > 1));
    }
}
