//! Who computes when: bounded admission, one queue, one dispatcher thread a device.
//!
//! Never waits when the engine is idle: a job that finds it so is dispatched at once, alone. What
//! queues up while the engine is busy goes next, as one batch. [`plan`] chooses it, purely.

mod job;
pub mod plan;
mod run;

pub use job::{Admission, BatchModel, Job, JobDone, JobError, Priority};
pub use run::{Overloaded, Scheduler, SchedulerLimits};
