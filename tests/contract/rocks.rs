//! What only a database on disk can show.

use std::path::Path;

use sluice::store::engine::{Engine as _, Op, Table};
use sluice::store::memory::Memory;
use sluice::store::rocks::Rocks;
use sluice::store::{Durability, Error, Ledger as _, Storage as _, Store};

use crate::books::{TOLD, invoice, payment};

#[test]
fn a_second_process_is_told_that_the_database_is_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let first = Rocks::open(directory.path()).unwrap();
    let Err(Error::Locked(sentence)) = Rocks::open(directory.path()) else { panic!("locked") };
    let path = directory.path().display().to_string();
    assert!(sentence.contains(&path) && sentence.contains("data_dir"), "{sentence}");
    drop(first);
    assert!(Rocks::open(directory.path()).is_ok(), "and is free afterwards");
}

#[test]
fn a_database_that_is_damaged_is_not_said_to_be_in_use() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("blocks");
    drop(Rocks::open(&path).unwrap());
    for file in std::fs::read_dir(&path).unwrap() {
        let file = file.unwrap().path();
        if file.file_name().unwrap().to_string_lossy().starts_with("MANIFEST") {
            std::fs::write(file, b"no manifest").unwrap();
        }
    }
    assert!(matches!(Rocks::open(&path), Err(Error::Failed(_))), "the operator would look in vain");
}

/// The mark of the format, and where it stands.
const FORMAT: (Table, &[u8]) = (Table::Catalog, b"format");

/// Changes a database as another version of this program would have left it.
fn left(path: &Path, ops: Vec<Op>) {
    Rocks::open(path).unwrap().write(ops, Durability::Disk).unwrap();
}

/// Asserts that it is refused, with the place, its own format and that of this program; whenever it is tried.
#[track_caller]
fn refused(path: &Path, format: u32, ours: u32) {
    for _ in 0..2 {
        let Err(Error::Failed(sentence)) = Rocks::open(path) else { panic!("{format}: opened") };
        let parts = [path.display().to_string(), format!("is of format {format},")];
        assert!(parts.iter().all(|part| sentence.contains(part)), "{sentence}");
        assert!(sentence.contains(&format!("reads format {ours}:")), "{sentence}");
        assert!(sentence.contains("data_dir"), "it says what to do: {sentence}");
    }
}

#[test]
fn a_database_of_another_format_is_refused_with_both_numbers_and_the_path() {
    let directory = tempfile::tempdir().unwrap();
    let (table, key) = FORMAT;
    let fresh = directory.path().join("fresh");
    let read = || Rocks::open(&fresh).unwrap().get(table, key).unwrap().expect("it is marked");
    let first = read();
    assert_eq!(read(), first, "a fresh one opens again");
    let ours: u32 = String::from_utf8(first).unwrap().parse().unwrap();

    // The first versions wrote no mark, whatever it was that they wrote.
    let rows = [(Table::Catalog, &b"boot"[..]), (Table::Node, &b"\0\0manager"[..])];
    for (n, (of, row)) in rows.into_iter().enumerate() {
        let path = directory.path().join(format!("unmarked-{n}"));
        let mark = Op::Delete(table, key.to_vec());
        left(&path, vec![mark, Op::Put(of, row.to_vec(), b"1".to_vec())]);
        refused(&path, 1, ours);
    }
    let path = directory.path().join("later");
    left(&path, vec![Op::Put(table, key.to_vec(), (ours + 1).to_string().into_bytes())]);
    refused(&path, ours + 1, ours);
}

#[test]
fn what_was_booked_is_there_though_the_process_ended_without_a_word() {
    let directory = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let store = Store::new(Rocks::open(directory.path()).unwrap());
    let invoice = invoice(1, 2_000);
    store.record(&invoice).unwrap();
    store.credit(payment(invoice.hash, 2_000, 1), TOLD, 1).unwrap();
    // What another process would find after SIGKILL: the files as they are, nothing flushed or closed.
    for file in std::fs::read_dir(directory.path()).unwrap() {
        let file = file.unwrap();
        if file.file_name() != "LOCK" {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    let found = Store::new(Rocks::open(copy.path()).unwrap());
    assert_eq!(found.invoice(&invoice.hash).unwrap(), store.invoice(&invoice.hash).unwrap());
    assert_eq!(found.balances().unwrap(), store.balances().unwrap());
}

#[test]
fn both_engines_keep_the_same_books() {
    let directory = tempfile::tempdir().unwrap();
    let rocks = Store::new(Rocks::open(directory.path()).unwrap());
    let memory = Store::new(Memory::default());
    for number in 0..50 {
        let invoice = invoice(number, 1_000 + u64::try_from(number).unwrap());
        let payment = payment(invoice.hash, 1_020, 1);
        let told = |store: &dyn sluice::store::Ledger| {
            store.record(&invoice).unwrap();
            store.credit(payment, TOLD, 1).unwrap()
        };
        assert_eq!(told(&rocks), told(&memory));
    }
    assert_eq!(rocks.entries(None, 99).unwrap(), memory.entries(None, 99).unwrap());
    assert_eq!(rocks.balances().unwrap(), memory.balances().unwrap());
}

#[tokio::test]
async fn keys_are_rotated_in_the_database_of_a_server_that_is_stopped() {
    let directory = tempfile::tempdir().unwrap();
    let rotate = || sluice::app::rotate_keys(directory.path());
    let nothing = rotate().await.unwrap_err().to_string();
    assert!(nothing.contains("data_dir") && !directory.path().join("db").exists(), "{nothing}");
    let store = Store::new(Rocks::open(&directory.path().join("db")).unwrap());
    assert!(rotate().await.is_err(), "a database in use");
    assert_eq!(store.key_epoch().unwrap(), 0);
    drop(store);
    assert_eq!((rotate().await.unwrap(), rotate().await.unwrap()), (1, 2));
    let store = Store::new(Rocks::open(&directory.path().join("db")).unwrap());
    assert_eq!(store.key_epoch().unwrap(), 2);
}
