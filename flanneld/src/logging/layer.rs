//! From `tracing` events to queued lines.

use std::sync::Arc;

use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::LogFormat;
use super::line::Line;
use super::queue::Queue;

/// Renders each event on the thread that logs it. In place of tracing-subscriber's own formatter, which reports
/// its errors with `eprintln!` and has neither of our formats.
pub(super) struct LineLayer {
    format: LogFormat,
    queue: Arc<Queue>,
}

impl LineLayer {
    pub(super) fn new(format: LogFormat, queue: Arc<Queue>) -> Self {
        Self { format, queue }
    }
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Line::new(self.format, *event.metadata().level());
        event.record(&mut line);
        self.queue.push(line.finish());
    }
}
