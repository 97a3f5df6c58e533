//! Who computes when: bounded admission, one queue, one dispatcher thread a device.
//!
//! Never waits when the engine is idle: whoever finds it so computes his job himself, at once, alone.
//! What queues up while the engine is busy is planned anew for each forward pass. [`plan`] chooses,
//! purely, by what [`cost`] says that passes take; [`admission`] refuses at once what could not be
//! answered in time.

pub mod admission;
pub mod cost;
mod job;
mod pass;
pub mod plan;
mod queue;
mod run;

pub use admission::{Admission, AdmissionLimits, Demand, Refused};
pub use cost::CostModel;
pub use job::{BatchModel, DropReason, Job, JobDone, JobError, Priority, Relief};
pub use run::{Scheduler, SchedulerLimits};
