//! The Lightning node's own state, as LDK's `KVStore` asks for it.

use sluice::store::{Durability, NodeKey, NodeState as _};

use crate::books::{Books, Kind, suite};

suite! {
    what_is_written_is_read_until_it_is_removed
    namespaces_are_apart_the_empty_ones_too
    large_and_empty_values_are_kept
}

fn key(primary: &str, secondary: &str, key: &str) -> NodeKey {
    let [primary, secondary, key] = [primary, secondary, key].map(str::to_owned);
    NodeKey { primary, secondary, key }
}

fn what_is_written_is_read_until_it_is_removed<K: Kind>(books: &mut Books<K>) {
    let manager = key("", "", "manager");
    assert_eq!(books.read(&manager).unwrap(), None);
    books.write(&manager, b"one", Durability::Process).unwrap();
    books.write(&manager, b"two", Durability::Disk).unwrap();
    books.reopen();
    assert_eq!(books.read(&manager).unwrap().as_deref(), Some(&b"two"[..]));
    books.remove(&manager).unwrap();
    books.remove(&manager).unwrap();
    books.reopen();
    assert_eq!(books.read(&manager).unwrap(), None);
    assert!(books.list("", "").unwrap().is_empty());
}

fn namespaces_are_apart_the_empty_ones_too<K: Kind>(books: &mut Books<K>) {
    let keys = [
        ("", "", "a"),
        ("monitors", "", "a"),
        ("monitors", "", "b"),
        ("monitors", "x", "a"),
        ("monitorsx", "", "a"),
        ("monitor_updates", "a", "1"),
        ("monitor_updates", "ab", "2"),
    ];
    for (n, (primary, secondary, name)) in (0_u8..).zip(keys) {
        books.write(&key(primary, secondary, name), &[n], Durability::Process).unwrap();
    }
    books.reopen();
    for (n, (primary, secondary, name)) in (0_u8..).zip(keys) {
        let value = books.read(&key(primary, secondary, name)).unwrap();
        assert_eq!(value, Some(vec![n]), "{primary}/{secondary}/{name}");
    }
    assert_eq!(books.list("", "").unwrap(), ["a"]);
    assert_eq!(books.list("monitors", "").unwrap(), ["a", "b"]);
    assert_eq!(books.list("monitors", "x").unwrap(), ["a"]);
    assert_eq!(books.list("monitor_updates", "a").unwrap(), ["1"]);
    assert!(books.list("monitor", "").unwrap().is_empty());
    assert!(books.list("monitor_updates", "").unwrap().is_empty());
    books.remove(&key("monitors", "", "a")).unwrap();
    assert_eq!(books.list("monitors", "x").unwrap(), ["a"], "only what was named");
}

fn large_and_empty_values_are_kept<K: Kind>(books: &mut Books<K>) {
    let graph = vec![0xA5; 1 << 20];
    books.write(&key("", "", "network_graph"), &graph, Durability::Process).unwrap();
    books.write(&key("", "", "empty"), b"", Durability::Disk).unwrap();
    books.reopen();
    assert!(books.read(&key("", "", "network_graph")).unwrap() == Some(graph));
    assert_eq!(books.read(&key("", "", "empty")).unwrap(), Some(Vec::new()));
}
