//! What only a database on disk can show.

use sluice::store::memory::Memory;
use sluice::store::rocks::Rocks;
use sluice::store::{Error, Ledger as _, Storage as _, Store};

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
