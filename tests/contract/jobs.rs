//! The queue of sources, each change one with the state of its title.

use sluice::domain::id::Version;
use sluice::domain::video::{Media, Ticks, Timeline, VideoState};
use sluice::store::{Catalog as _, Change, Job, Jobs as _, Lease, Setback};

use crate::books::{Books, Kind, suite, video, video_id};

suite! {
    the_oldest_job_is_taken_first_and_by_one_only
    a_lease_ends_in_time_and_with_its_boot
    what_is_published_can_be_watched_and_its_job_is_gone
    a_job_is_tried_again_up_to_a_limit_and_then_its_title_fails
    the_job_of_a_deleted_title_comes_to_nothing
    a_job_needs_a_title_that_takes_a_source
}

fn queued<K: Kind>(books: &Books<K>, number: u128, queued_ms: u64) -> Job {
    books.create_video(&video(number, 1)).unwrap();
    books.advance(video_id(number), VideoState::Uploading).unwrap();
    let job = Job {
        video: video_id(number),
        version: Version(1),
        source: format!("{number}.source"),
        attempts: 0,
        lease: None,
        queued_ms,
    };
    assert!(matches!(books.enqueue(&job).unwrap(), Change::Done(_)));
    job
}

fn state<K: Kind>(books: &Books<K>, number: u128) -> &'static str {
    books.video(video_id(number)).unwrap().unwrap().state.word()
}

const fn lease(boot: u64, until_ms: u64) -> Lease {
    Lease { boot, until_ms }
}

fn media() -> Media {
    let timeline = Timeline::new(vec![Ticks::new(0), Ticks::new(360_000)]).unwrap();
    Media { version: Version(1), timeline, renditions: Vec::new(), frames: 100 }
}

fn the_oldest_job_is_taken_first_and_by_one_only<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 20);
    queued(books, 2, 10);
    assert_eq!(state(books, 2), "queued");
    books.reopen();
    let first = books.claim(lease(1, 1_000), 0).unwrap().unwrap();
    assert_eq!((first.video, first.attempts), (video_id(2), 1));
    assert_eq!(state(books, 2), "transcoding");
    assert_eq!(books.claim(lease(1, 1_000), 0).unwrap().unwrap().video, video_id(1));
    assert_eq!(books.claim(lease(1, 1_000), 0).unwrap(), None);
}

fn a_lease_ends_in_time_and_with_its_boot<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    assert!(books.claim(lease(1, 1_000), 0).unwrap().is_some());
    assert_eq!(books.claim(lease(1, 1_000), 999).unwrap(), None);
    let late = books.claim(lease(1, 2_000), 1_000).unwrap().unwrap();
    assert_eq!(late.attempts, 2, "it ran out");
    books.reopen();
    let other = books.claim(lease(2, 3_000), 1_001).unwrap().unwrap();
    assert_eq!(other.attempts, 3, "a new process takes it at once");
}

fn what_is_published_can_be_watched_and_its_job_is_gone<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    let job = books.claim(lease(1, 1_000), 0).unwrap().unwrap();
    assert!(matches!(books.publish(&job, &media()).unwrap(), Change::Done(_)));
    books.reopen();
    assert_eq!(state(books, 1), "ready");
    assert_eq!(books.media(video_id(1), Version(1)).unwrap(), Some(media()));
    assert_eq!(books.media(video_id(1), Version(2)).unwrap(), None);
    assert_eq!(books.claim(lease(2, 1_000), 0).unwrap(), None);
    let again = books.publish(&job, &media()).unwrap();
    assert_eq!(again, Change::Refused(VideoState::Ready));
}

fn a_job_is_tried_again_up_to_a_limit_and_then_its_title_fails<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    for _ in 0..2 {
        let job = books.claim(lease(1, 1_000), 0).unwrap().unwrap();
        assert_eq!(books.set_back(&job, "why", true, 3).unwrap(), Setback::Queued);
        assert_eq!(state(books, 1), "queued");
    }
    let job = books.claim(lease(1, 1_000), 0).unwrap().unwrap();
    assert_eq!(job.attempts, 3);
    assert_eq!(books.set_back(&job, "why", true, 3).unwrap(), Setback::Failed);
    books.reopen();
    let failed = VideoState::Failed { reason: "why".to_owned() };
    assert_eq!(books.video(video_id(1)).unwrap().unwrap().state, failed);
    assert_eq!(books.claim(lease(2, 1_000), 0).unwrap(), None);
    queued(books, 2, 10);
    let job = books.claim(lease(1, 1_000), 0).unwrap().unwrap();
    let at_once = books.set_back(&job, "no film", false, 3).unwrap();
    assert_eq!(at_once, Setback::Failed, "trying again cannot help");
}

fn the_job_of_a_deleted_title_comes_to_nothing<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    let job = books.claim(lease(1, 1_000), 0).unwrap().unwrap();
    books.delete_video(video_id(1)).unwrap();
    assert_eq!(books.publish(&job, &media()).unwrap(), Change::Missing);
    assert_eq!(books.set_back(&job, "why", true, 3).unwrap(), Setback::Gone);
    assert_eq!(books.media(video_id(1), Version(1)).unwrap(), None);
    assert_eq!(books.claim(lease(2, 1_000), 0).unwrap(), None);
}

fn a_job_needs_a_title_that_takes_a_source<K: Kind>(books: &mut Books<K>) {
    let job = queued(books, 1, 10);
    let twice = books.enqueue(&job).unwrap();
    assert_eq!(twice, Change::Refused(VideoState::Queued));
    let nowhere = Job { video: video_id(9), ..job };
    assert_eq!(books.enqueue(&nowhere).unwrap(), Change::Missing);
    assert!(books.claim(lease(1, 1_000), 0).unwrap().is_some());
    assert_eq!(books.claim(lease(1, 1_000), 0).unwrap(), None, "no second job");
}
