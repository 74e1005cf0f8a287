//! The queue of tasks, each change one with the state of its title.

use sluice::domain::id::{Version, VideoId};
use sluice::domain::video::{Media, Ticks, Timeline, VideoState};
use sluice::store::{
    Catalog as _, Change, Claimed, Job, Jobs as _, Lease, Retired, Setback, Task, TaskState,
};

use crate::books::{Books, Kind, suite, video, video_id};

suite! {
    the_oldest_job_is_taken_first_and_by_one_only
    a_lease_ends_in_time_and_with_its_boot_and_can_be_renewed
    what_is_published_can_be_watched_and_its_job_is_gone
    a_task_is_tried_again_up_to_a_limit_and_then_its_title_fails
    the_job_of_a_deleted_title_comes_to_nothing
    a_job_needs_a_title_that_takes_a_source
    a_plan_takes_the_place_of_the_first_task_and_all_its_tasks_can_be_held_at_once
    a_lower_rank_goes_first_then_creators_take_turns
    more_creators_than_workers_take_turns
    a_task_waits_for_its_time_and_one_that_was_given_back_was_not_begun
    a_title_that_is_watched_before_all_is_made_stays_so_whatever_becomes_of_the_rest
    a_new_source_becomes_the_next_version_and_the_old_one_is_kept_until_it_is_forgotten
    a_job_that_is_cancelled_leaves_a_title_that_takes_a_source
}

fn queued<K: Kind>(books: &Books<K>, number: u128, queued_ms: u64) -> Job {
    queued_by(books, number, 1, queued_ms)
}

fn queued_by<K: Kind>(books: &Books<K>, number: u128, of: u128, queued_ms: u64) -> Job {
    books.create_video(&video(number, of)).unwrap();
    sent(books, number, queued_ms)
}

fn sent<K: Kind>(books: &Books<K>, number: u128, queued_ms: u64) -> Job {
    let advanced = books.advance(video_id(number), VideoState::Uploading).unwrap();
    let Change::Done(video) = advanced else { panic!("{advanced:?}") };
    let job = Job::new(&video, format!("{number}.source"), "look".to_owned(), queued_ms);
    assert!(matches!(books.enqueue(&job).unwrap(), Change::Done(_)));
    job
}

fn state<K: Kind>(books: &Books<K>, number: u128) -> &'static str {
    books.video(video_id(number)).unwrap().unwrap().state.word()
}

const fn lease(boot: u64, until_ms: u64) -> Lease {
    Lease { boot, until_ms }
}

fn claim<K: Kind>(books: &Books<K>) -> Claimed {
    books.claim(lease(1, 1_000), 0).unwrap().unwrap()
}

fn task(claimed: &Claimed) -> (VideoId, &str, u32) {
    let task = claimed.task().unwrap();
    (claimed.job.video, &task.what, task.attempts)
}

fn media(version: u32) -> Media {
    let timeline = Timeline::new(vec![Ticks::new(0), Ticks::new(360_000)]).unwrap();
    Media { version: Version(version), timeline, renditions: Vec::new(), frames: 100 }
}

fn the_oldest_job_is_taken_first_and_by_one_only<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 20);
    queued(books, 2, 10);
    assert_eq!(state(books, 2), "queued");
    books.reopen();
    assert_eq!(task(&claim(books)), (video_id(2), "look", 1));
    assert_eq!(state(books, 2), "transcoding");
    assert_eq!(claim(books).job.video, video_id(1));
    assert_eq!(books.claim(lease(1, 1_000), 0).unwrap(), None);
}

fn a_lease_ends_in_time_and_with_its_boot_and_can_be_renewed<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    let first = claim(books);
    assert_eq!(books.claim(lease(1, 1_000), 999).unwrap(), None);
    assert!(books.renew(&first, 1_500).unwrap());
    assert_eq!(books.claim(lease(1, 2_000), 1_400).unwrap(), None);
    let late = books.claim(lease(1, 2_000), 1_500).unwrap().unwrap();
    assert_eq!(task(&late).2, 2, "it ran out");
    assert!(!books.renew(&first, 9_000).unwrap(), "somebody else has it");
    assert_eq!(books.done(&first).unwrap(), None);
    assert_eq!(books.set_back(&first, "why", None, 3).unwrap(), Setback::Gone);
    books.reopen();
    let other = books.claim(lease(2, 3_000), 1_501).unwrap().unwrap();
    assert_eq!(task(&other).2, 3, "a new process takes it at once");
    assert!(!books.renew(&late, 9_000).unwrap());
    assert!(books.done(&other).unwrap().unwrap().is_done());
}

fn what_is_published_can_be_watched_and_its_job_is_gone<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    let job = claim(books).job;
    assert_eq!(books.job(video_id(1)).unwrap().as_ref(), Some(&job));
    assert!(matches!(books.publish(&job, &media(1), true, 5).unwrap(), Change::Done(_)));
    books.reopen();
    assert_eq!(state(books, 1), "ready");
    assert_eq!(books.media(video_id(1), Version(1)).unwrap(), Some(media(1)));
    assert_eq!(books.media(video_id(1), Version(2)).unwrap(), None);
    assert_eq!(books.job(video_id(1)).unwrap(), None);
    assert_eq!(books.claim(lease(2, 1_000), 0).unwrap(), None);
    let again = books.publish(&job, &media(1), true, 5).unwrap();
    assert_eq!(again, Change::Refused(VideoState::Ready));
}

fn a_task_is_tried_again_up_to_a_limit_and_then_its_title_fails<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    for _ in 0..2 {
        let claimed = claim(books);
        assert_eq!(books.set_back(&claimed, "why", Some(0), 3).unwrap(), Setback::Queued);
        assert_eq!(state(books, 1), "queued");
    }
    let claimed = claim(books);
    assert_eq!(task(&claimed).2, 3);
    assert_eq!(books.set_back(&claimed, "why", Some(0), 3).unwrap(), Setback::Failed);
    books.reopen();
    let failed = VideoState::Failed { reason: "why".to_owned() };
    assert_eq!(books.video(video_id(1)).unwrap().unwrap().state, failed);
    assert_eq!(books.claim(lease(2, 1_000), 0).unwrap(), None);
    queued(books, 2, 10);
    let at_once = books.set_back(&claim(books), "no film", None, 3).unwrap();
    assert_eq!(at_once, Setback::Failed, "trying again cannot help");
}

fn the_job_of_a_deleted_title_comes_to_nothing<K: Kind>(books: &mut Books<K>) {
    queued(books, 1, 10);
    let claimed = claim(books);
    books.delete_video(video_id(1)).unwrap();
    assert_eq!(books.deleted().unwrap(), [video_id(1)], "its bytes may be there");
    books.removed(video_id(1)).unwrap();
    assert_eq!(books.deleted().unwrap(), []);
    let published = books.publish(&claimed.job, &media(1), true, 5).unwrap();
    assert_eq!(published, Change::Missing);
    assert_eq!(books.set_back(&claimed, "why", Some(0), 3).unwrap(), Setback::Gone);
    assert!(!books.renew(&claimed, 9_000).unwrap());
    assert_eq!(books.planned(&claimed, "a", "plan", Vec::new()).unwrap(), None);
    assert_eq!(books.media(video_id(1), Version(1)).unwrap(), None);
    assert_eq!(books.claim(lease(2, 1_000), 0).unwrap(), None);
}

fn a_job_needs_a_title_that_takes_a_source<K: Kind>(books: &mut Books<K>) {
    let job = queued(books, 1, 10);
    let twice = books.enqueue(&job).unwrap();
    assert_eq!(twice, Change::Refused(VideoState::Queued));
    let nowhere = Job { video: video_id(9), ..job };
    assert_eq!(books.enqueue(&nowhere).unwrap(), Change::Missing);
    claim(books);
    assert_eq!(books.claim(lease(1, 1_000), 0).unwrap(), None, "no second job");
}

fn tasks(of: &[(&str, u8)]) -> Vec<Task> {
    of.iter().map(|(what, rank)| Task::new((*what).to_owned(), *rank)).collect()
}

/// A job that was looked at, with these tasks.
fn planned<K: Kind>(books: &Books<K>, what: &[(&str, u8)]) -> Job {
    queued(books, 1, 1);
    books.planned(&claim(books), "a", "plan", tasks(what)).unwrap().unwrap()
}

fn a_plan_takes_the_place_of_the_first_task_and_all_its_tasks_can_be_held_at_once<K: Kind>(
    books: &mut Books<K>,
) {
    planned(books, &[("sound", 0), ("a", 0), ("b", 0)]);
    books.reopen();
    let [one, two, three] = [claim(books), claim(books), claim(books)];
    assert_eq!([task(&one).1, task(&two).1, task(&three).1], ["sound", "a", "b"]);
    assert_eq!(one.job.plan, "plan");
    assert_eq!(books.claim(lease(1, 1_000), 0).unwrap(), None);
    assert_eq!(books.set_back(&two, "why", Some(0), 3).unwrap(), Setback::Queued);
    assert_eq!(state(books, 1), "transcoding", "the others go on");
    assert!(!books.done(&one).unwrap().unwrap().is_done());
    assert!(!books.done(&three).unwrap().unwrap().is_done());
    assert_eq!(books.done(&three).unwrap(), None, "once");
    books.reopen();
    let again = claim(books);
    assert_eq!(task(&again), (video_id(1), "a", 2));
    let job = books.done(&again).unwrap().unwrap();
    assert!(job.is_done() && job.tasks.iter().all(|task| task.state == TaskState::Done));
}

fn a_lower_rank_goes_first_then_creators_take_turns<K: Kind>(books: &mut Books<K>) {
    queued_by(books, 1, 1, 10);
    queued_by(books, 2, 1, 20);
    queued_by(books, 3, 2, 30);
    // Ada's older film, then Grace's, then Ada's other.
    let looked = [claim(books), claim(books), claim(books)];
    assert_eq!(looked.each_ref().map(|of| of.job.video), [1, 3, 2].map(video_id));
    let plans: [&[(&str, u8)]; 3] = [
        &[("1a", 0), ("1b", 0), ("1c", 0), ("1d", 1)],
        &[("3a", 0), ("3b", 0), ("3c", 1)],
        &[("2a", 0), ("2b", 1)],
    ];
    for (looked, plan) in looked.iter().zip(plans) {
        books.planned(looked, "a", "plan", tasks(plan)).unwrap().unwrap();
    }
    let order: Vec<String> = (0..9).map(|_| task(&claim(books)).1.to_owned()).collect();
    // Grace, whose turn is longer ago, then whoever has fewer, the older film of Ada before her newer one; the second rank last.
    assert_eq!(order, ["3a", "1a", "3b", "1b", "1c", "2a", "3c", "1d", "2b"]);
}

fn more_creators_than_workers_take_turns<K: Kind>(books: &mut Books<K>) {
    for number in 1..=3 {
        queued_by(books, number, number, u64::try_from(number).unwrap());
    }
    for _ in 0..3 {
        books.planned(&claim(books), "a", "plan", tasks(&[("x", 0), ("x", 0), ("x", 0)])).unwrap();
    }
    let mut order = Vec::new();
    // One worker: each task ends before the next is taken.
    while let Some(claimed) = books.claim(lease(1, 1_000), 0).unwrap() {
        order.push(claimed.job.creator);
        books.done(&claimed).unwrap();
    }
    assert_eq!(order.len(), 9);
    for turn in order.chunks(3) {
        assert!(turn[0] != turn[1] && turn[1] != turn[2] && turn[0] != turn[2], "{order:?}");
    }
}

fn a_task_waits_for_its_time_and_one_that_was_given_back_was_not_begun<K: Kind>(
    books: &mut Books<K>,
) {
    queued(books, 1, 10);
    for _ in 0..5 {
        books.release(&claim(books)).unwrap();
    }
    let claimed = claim(books);
    assert_eq!(task(&claimed).2, 1);
    assert_eq!(books.set_back(&claimed, "why", Some(500), 3).unwrap(), Setback::Queued);
    assert_eq!(books.claim(lease(1, 1_000), 499).unwrap(), None);
    assert_eq!(task(&books.claim(lease(1, 1_000), 500).unwrap().unwrap()).2, 2);
}

fn a_title_that_is_watched_before_all_is_made_stays_so_whatever_becomes_of_the_rest<K: Kind>(
    books: &mut Books<K>,
) {
    let job = planned(books, &[("first", 0), ("rest", 1)]);
    let first = claim(books);
    books.done(&first).unwrap();
    assert!(matches!(books.publish(&job, &media(1), false, 5).unwrap(), Change::Done(_)));
    assert_eq!(state(books, 1), "ready");
    books.reopen();
    let early = books.advance(video_id(1), VideoState::Uploading).unwrap();
    assert_eq!(early, Change::Refused(VideoState::Transcoding), "the rest is not made");
    let rest = claim(books);
    assert_eq!(task(&rest).1, "rest");
    assert_eq!(state(books, 1), "ready");
    assert_eq!(books.set_back(&rest, "why", None, 3).unwrap(), Setback::Failed);
    assert_eq!(state(books, 1), "ready", "with what there is");
    assert_eq!(books.job(video_id(1)).unwrap(), None);
}

fn a_new_source_becomes_the_next_version_and_the_old_one_is_kept_until_it_is_forgotten<K: Kind>(
    books: &mut Books<K>,
) {
    let job = queued(books, 1, 10);
    claim(books);
    books.publish(&job, &media(1), true, 5).unwrap();
    // The first try comes to nothing.
    sent(books, 1, 20);
    let failed = claim(books);
    assert_eq!(failed.job.version, Version(2));
    books.set_back(&failed, "why", None, 3).unwrap();
    let kept = books.video(video_id(1)).unwrap().unwrap();
    assert_eq!((kept.state.word(), kept.version), ("ready", Version(1)));
    assert_eq!(kept.making_state().word(), "failed");
    let job = sent(books, 1, 30);
    books.reopen();
    claim(books);
    assert!(matches!(books.publish(&job, &media(3), true, 77).unwrap(), Change::Done(_)));
    books.reopen();
    let new = books.video(video_id(1)).unwrap().unwrap();
    assert_eq!((new.state.word(), new.version, new.next), ("ready", Version(3), None));
    assert_eq!(books.media(video_id(1), Version(1)).unwrap(), Some(media(1)), "still served");
    assert_eq!(books.retired(77).unwrap(), []);
    let old = Retired { video: video_id(1), version: Version(1), at_ms: 77 };
    assert_eq!(books.retired(78).unwrap(), std::slice::from_ref(&old));
    books.forget(&old).unwrap();
    assert_eq!(books.media(video_id(1), Version(1)).unwrap(), None);
    assert_eq!(books.media(video_id(1), Version(3)).unwrap(), Some(media(3)));
    assert_eq!(books.retired(u64::MAX).unwrap(), []);
}

fn a_job_that_is_cancelled_leaves_a_title_that_takes_a_source<K: Kind>(books: &mut Books<K>) {
    let job = queued(books, 1, 10);
    let claimed = claim(books);
    assert_eq!(books.cancel(video_id(1), "cancelled").unwrap().unwrap().source, job.source);
    assert_eq!(books.cancel(video_id(1), "cancelled").unwrap(), None);
    assert_eq!(state(books, 1), "failed");
    assert_eq!(books.done(&claimed).unwrap(), None);
    books.reopen();
    let again = sent(books, 1, 20);
    claim(books);
    books.publish(&again, &media(2), true, 5).unwrap();
    assert_eq!(state(books, 1), "ready");
    assert_eq!(books.all_jobs().unwrap(), []);
}
