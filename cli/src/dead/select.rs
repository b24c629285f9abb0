//! Which dead letters, as the command line says it: [`Filters`].

use std::time::SystemTime;

use dawdle::EventId;
use dawdle_workbench::{Wanted, when};

use crate::problem::{Problem, Result};

#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Filters {
    /// Of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Of this handler; `-` for those of none
    #[arg(long, value_name = "NAME")]
    handler: Option<String>,
    /// That died for this reason, such as `attempts`; `handler` for those of a handler's own
    #[arg(long)]
    reason: Option<String>,
    /// Given up by this build
    #[arg(long, value_name = "BUILD")]
    version: Option<String>,
    /// Whose error has this fingerprint, as `dead list` shows it
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Given up since then: RFC 3339, or a span ago such as `2h`
    #[arg(long, value_name = "TIME", value_parser = when::ago)]
    since: Option<SystemTime>,
    /// At most so many
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Filters {
    /// Those of this handler, where one is named.
    pub(crate) fn of_handler(handler: Option<String>) -> Filters {
        Filters { handler, ..Filters::default() }
    }

    /// The letters of these events, or of any where none is named, that pass.
    pub(crate) fn wanted(self, ids: &[String]) -> Result<Wanted> {
        let read = |id: &String| id.parse().map_err(|error| Problem::usage(format!("`{id}`: {error}")));
        let ids: Vec<EventId> = ids.iter().map(read).collect::<Result<_>>()?;
        let Filters { kind, handler, reason, version, fingerprint, since, limit } = self;
        let filters =
            dawdle_workbench::Filters { kind, handler, reason, version, fingerprint, id_part: None, since, limit };
        Ok(Wanted::new(ids, filters))
    }
}
