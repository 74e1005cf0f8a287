//! Creators, keys and titles.

use sluice::domain::amount::Price;
use sluice::domain::destination::Destination;
use sluice::domain::id::NodeId;
use sluice::domain::video::VideoState;
use sluice::store::{Catalog as _, Change, KeyHash, Role, Storage as _, VideoEdit};

use crate::books::{Books, Kind, creator, enter, suite, video, video_id};

suite! {
    a_creator_is_found_by_id_and_by_key
    an_edit_changes_what_it_names_and_nothing_else
    titles_are_listed_oldest_first_page_by_page
    a_title_moves_only_where_its_state_allows
    a_deleted_title_leaves_nothing
    starts_are_counted
    the_epoch_of_the_keys_is_kept_and_only_moves_on
}

fn the_epoch_of_the_keys_is_kept_and_only_moves_on<K: Kind>(books: &mut Books<K>) {
    assert_eq!(books.key_epoch().unwrap(), 0);
    books.next_boot().unwrap();
    assert_eq!(books.rotate_keys().unwrap(), 1);
    assert_eq!(books.rotate_keys().unwrap(), 2);
    books.reopen();
    assert_eq!(books.key_epoch().unwrap(), 2);
}

fn a_creator_is_found_by_id_and_by_key<K: Kind>(books: &mut Books<K>) {
    enter(books, 1);
    enter(books, 2);
    books.grant(KeyHash([9; 32]), Role::Operator).unwrap();
    books.reopen();
    assert_eq!(books.creator(creator(1)).unwrap().unwrap().name, "Ada");
    assert_eq!(books.creator(creator(3)).unwrap(), None);
    assert_eq!(books.creators().unwrap().len(), 2);
    assert_eq!(books.role(KeyHash([1; 32])).unwrap(), Some(Role::Creator(creator(1))));
    assert_eq!(books.role(KeyHash([9; 32])).unwrap(), Some(Role::Operator));
    assert_eq!(books.role(KeyHash([3; 32])).unwrap(), None);
}

fn an_edit_changes_what_it_names_and_nothing_else<K: Kind>(books: &mut Books<K>) {
    enter(books, 1);
    let to = Destination::Keysend(NodeId::new([2; 33]));
    assert_eq!(
        books.edit_creator(creator(1), None, Some((to.clone(), 9))).unwrap().unwrap().name,
        "Ada"
    );
    let edited = books.edit_creator(creator(1), Some("Grace".to_owned()), None).unwrap().unwrap();
    assert_eq!((edited.name.as_str(), edited.payout), ("Grace", Some(to)));
    assert_eq!(books.edit_creator(creator(2), None, None).unwrap(), None);
    books.create_video(&video(1, 1)).unwrap();
    let edit = VideoEdit { price: Some(Price::agreed(7)), ..VideoEdit::default() };
    let edited = books.edit_video(video_id(1), edit).unwrap().unwrap();
    assert_eq!((edited.title.as_str(), edited.price.get()), ("Film 1", 7));
    books.reopen();
    assert_eq!(books.video(video_id(1)).unwrap(), Some(edited));
    assert_eq!(books.edit_video(video_id(2), VideoEdit::default()).unwrap(), None);
}

fn titles_are_listed_oldest_first_page_by_page<K: Kind>(books: &mut Books<K>) {
    for number in 1..=300 {
        books.create_video(&video(number, 1 + number % 2)).unwrap();
    }
    books.reopen();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = books.videos(Some(creator(1)), after, 7).unwrap();
        assert!(page.len() <= 7);
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.into_iter().map(|video| video.id));
    }
    assert_eq!(seen, (1..=150).map(|half| video_id(2 * half)).collect::<Vec<_>>());
    assert_eq!(books.videos(None, None, 1_000).unwrap().len(), 300);
    assert!(books.videos(None, Some(video_id(300)), 10).unwrap().is_empty());
}

fn a_title_moves_only_where_its_state_allows<K: Kind>(books: &mut Books<K>) {
    books.create_video(&video(1, 1)).unwrap();
    let ready = books.advance(video_id(1), VideoState::Ready).unwrap();
    assert_eq!(ready, Change::Refused(VideoState::Draft));
    let uploading = books.advance(video_id(1), VideoState::Uploading).unwrap();
    assert!(matches!(uploading, Change::Done(video) if video.state == VideoState::Uploading));
    books.reopen();
    assert_eq!(books.video(video_id(1)).unwrap().unwrap().state, VideoState::Uploading);
    assert_eq!(books.advance(video_id(2), VideoState::Uploading).unwrap(), Change::Missing);
}

fn a_deleted_title_leaves_nothing<K: Kind>(books: &mut Books<K>) {
    books.create_video(&video(1, 1)).unwrap();
    books.create_video(&video(2, 1)).unwrap();
    assert_eq!(books.delete_video(video_id(1)).unwrap().unwrap().id, video_id(1));
    books.reopen();
    assert_eq!(books.delete_video(video_id(1)).unwrap(), None);
    assert_eq!(books.video(video_id(1)).unwrap(), None);
    assert_eq!(books.videos(None, None, 10).unwrap().len(), 1);
}

fn starts_are_counted<K: Kind>(books: &mut Books<K>) {
    let mut last = 0;
    for _ in 0..3 {
        let boot = books.next_boot().unwrap();
        assert!(boot > last);
        last = boot;
        books.reopen();
    }
    assert_eq!(books.next_boot().unwrap(), 4);
}
