//! The server's own files: modules named by a path look for their parts beside themselves, so each is named here.

#[path = "../../src/domain/amount.rs"]
pub mod amount;
#[path = "../../src/domain/id.rs"]
pub mod id;
#[path = "../../src/domain/ledger.rs"]
pub mod ledger;
#[path = "../../src/domain/session.rs"]
pub mod session;
#[path = "../../src/domain/video.rs"]
pub mod video;
