//! For a backend around another, which changes only some of what passes.

/// `forward!(self.queue => check, send)` makes these methods of `Backend`, and each asks `queue`.
macro_rules! forward {
    (self.$field:ident => $($method:ident),+) => {
        $(forward!(@$method $field);)+
    };
    (@name $field:ident) => {
        fn name(&self) -> &str {
            self.$field.name()
        }
    };
    (@describe $field:ident) => {
        fn describe(&self) -> String {
            self.$field.describe()
        }
    };
    (@limits $field:ident) => {
        fn limits(&self) -> dawdle::backend::Limits {
            self.$field.limits()
        }
    };
    (@clock_offset_ms $field:ident) => {
        fn clock_offset_ms(&self) -> i64 {
            self.$field.clock_offset_ms()
        }
    };
    (@learn_clock_offset $field:ident) => {
        fn learn_clock_offset(&self) -> dawdle::backend::BoxFuture<'_, dawdle::Result<()>> {
            self.$field.learn_clock_offset()
        }
    };
    (@usage $field:ident) => {
        fn usage(&self) -> dawdle::backend::Usage {
            self.$field.usage()
        }
    };
    (@check $field:ident) => {
        fn check(&self, role: dawdle::backend::Role) -> dawdle::backend::BoxFuture<'_, dawdle::Result<()>> {
            self.$field.check(role)
        }
    };
    (@send $field:ident) => {
        fn send<'a>(
            &'a self,
            lane: dawdle::backend::Lane,
            messages: &'a [dawdle::backend::Outgoing],
        ) -> dawdle::backend::BoxFuture<'a, Vec<dawdle::Result<()>>> {
            self.$field.send(lane, messages)
        }
    };
    (@receive $field:ident) => {
        fn receive(
            &self,
            lane: dawdle::backend::Lane,
            max: usize,
        ) -> dawdle::backend::BoxFuture<'_, dawdle::Result<Vec<dawdle::backend::Delivery>>> {
            self.$field.receive(lane, max)
        }
    };
    (@settle $field:ident) => {
        fn settle<'a>(
            &'a self,
            lane: dawdle::backend::Lane,
            entries: &'a [dawdle::backend::Settle],
        ) -> dawdle::backend::BoxFuture<'a, Vec<dawdle::Result<()>>> {
            self.$field.settle(lane, entries)
        }
    };
    (@extend $field:ident) => {
        fn extend<'a>(
            &'a self,
            lane: dawdle::backend::Lane,
            receipts: &'a [dawdle::backend::Receipt],
            lease: std::time::Duration,
        ) -> dawdle::backend::BoxFuture<'a, Vec<dawdle::Result<()>>> {
            self.$field.extend(lane, receipts, lease)
        }
    };
    (@inspect $field:ident) => {
        fn inspect(
            &self,
            lane: dawdle::backend::Lane,
        ) -> dawdle::backend::BoxFuture<'_, dawdle::Result<dawdle::backend::LaneStats>> {
            self.$field.inspect(lane)
        }
    };
    (@browse $field:ident) => {
        fn browse(
            &self,
            lane: dawdle::backend::Lane,
            max: usize,
            hold: std::time::Duration,
        ) -> dawdle::backend::BoxFuture<'_, dawdle::Result<Vec<dawdle::backend::Delivery>>> {
            self.$field.browse(lane, max, hold)
        }
    };
}
pub(crate) use forward;
