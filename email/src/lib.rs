//! Mail to the text that a model reads.
//!
//! One text for training and for serving: subject and body, decoded, without markup, hidden text,
//! list footers and signatures. Addresses and other headers stay out of it: they tell who wrote,
//! not what.
#![forbid(unsafe_code)]

mod boilerplate;
mod cuts;
mod decode;
mod html;
mod mail;
mod normalize;
mod outline;

pub use cuts::Cuts;
pub use mail::{
    Attachment, EmailError, Limits, MailFields, MailText, ModelText, ReadOptions, read_fields,
    read_rfc822,
};
