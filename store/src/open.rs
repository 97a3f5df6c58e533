//! Opening the database, again and again until that succeeds: the service does not wait for it.

use std::sync::Arc;
use std::time::Duration;

use crate::Inner;
use crate::database::Database;

const BACK_OFF: Duration = Duration::from_millis(200);
const BACK_OFF_MAX: Duration = Duration::from_secs(10);

pub(crate) async fn open(inner: Arc<Inner>) {
    let mut back_off = BACK_OFF;
    loop {
        match Database::open(&inner.settings, Arc::clone(&inner.observer)).await {
            Ok(database) => {
                inner.told(None);
                inner.state.write().database = Some(Arc::new(database));
                return;
            }
            Err(error) => inner.told(Some(error.to_string())),
        }
        tokio::time::sleep(back_off).await;
        back_off = (2 * back_off).min(BACK_OFF_MAX);
    }
}
