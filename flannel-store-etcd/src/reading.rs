//! Listing and watching, on one connection.

use etcd_client::{
    GetOptions, GetResponse, Txn, TxnOp, TxnOpResponse, WatchOptions, WatchResponse, WatchStream,
};

use crate::entry::{Entry, Moment};
use crate::failure::{Failure, Kind};
use crate::follower::{Change, Listing, Message, WatchState, Which};
use crate::keys::Keys;
use crate::servers::Server;

/// How many leases are asked for at once.
const PAGE: i64 = 1000;

/// A directory with more entries than this is something else.
const MAX_ENTRIES: usize = 65_536;

/// No page and no message of a watch is longer than this.
const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// The config, and every entry in the leases' place: all at one revision.
pub(crate) async fn list(server: &Server, keys: &Keys) -> Result<(Option<Entry>, Listing), Failure> {
    let options = || GetOptions::new().with_range(keys.leases_end()).with_limit(PAGE);
    let both = Txn::new().and_then([
        TxnOp::get(keys.config.as_str(), None),
        TxnOp::get(keys.leases.as_str(), Some(options())),
    ]);
    let answer = server
        .ask(|client| async move {
            client
                .kv_client()
                .max_decoding_message_size(MAX_MESSAGE_BYTES)
                .txn(both)
                .await
        })
        .await?;
    let mut pages = answer
        .op_responses()
        .into_iter()
        .filter_map(|response| match response {
            TxnOpResponse::Get(page) => Some(page),
            _ => None,
        });
    let (Some(moment), Some(config), Some(mut page)) =
        (answer.header().map(Moment::from), pages.next(), pages.next())
    else {
        return Err(Failure::new(
            Kind::Refused,
            "the answer lacks a part; is it etcd?",
        ));
    };
    let mut entries: Vec<Entry> = Vec::new();
    loop {
        entries.extend(page.kvs().iter().map(Entry::from));
        let Some(last) = entries.last().filter(|_| page.more()) else {
            break;
        };
        if entries.len() >= MAX_ENTRIES {
            let text = format!(
                "there are more than {MAX_ENTRIES} keys below {}; remove what is no lease",
                keys.leases
            );
            return Err(Failure::new(Kind::Refused, text));
        }
        let from = [last.key.as_slice(), b"\0"].concat();
        let options = options().with_revision(moment.revision);
        page = server.ask(|client| get(client, from, options)).await?;
    }
    let config = config.kvs().first().map(Entry::from);
    Ok((config, Listing { moment, entries }))
}

async fn get(
    client: etcd_client::Client,
    key: Vec<u8>,
    options: GetOptions,
) -> Result<GetResponse, etcd_client::Error> {
    client
        .kv_client()
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .get(key, Some(options))
        .await
}

/// Two watches in one stream. One watch over both would need the right to read what lies between the
/// config and the leases, which nobody had to grant to flannel.
pub(crate) struct Watching {
    pub(crate) server: Server,
    stream: WatchStream,
    /// The watches that have begun, by the ids that the server gave them.
    ids: [Option<i64>; 2],
}

impl Watching {
    /// Begins both watches, each at its revision. What comes of it the messages say.
    pub(crate) async fn begin(server: Server, keys: &Keys, from: [i64; 2]) -> Result<Self, Failure> {
        let options = |from| {
            WatchOptions::new()
                .with_start_revision(from)
                .with_progress_notify()
        };
        let (config, leases) = (options(from[0]), options(from[1]).with_range(keys.leases_end()));
        let stream = server
            .ask(|client| async move {
                let mut watch = client.watch_client().max_decoding_message_size(MAX_MESSAGE_BYTES);
                let mut stream = watch.watch(keys.config.as_str(), Some(config)).await?;
                stream.watch(keys.leases.as_str(), Some(leases)).await?;
                Ok(stream)
            })
            .await?;
        Ok(Self {
            server,
            stream,
            ids: [None; 2],
        })
    }

    /// Whether the server has begun both.
    pub(crate) fn has_begun(&self) -> bool {
        self.ids.iter().all(Option::is_some)
    }

    /// The next message of either. Nothing is lost when this is given up.
    pub(crate) async fn next(&mut self) -> Result<Message, Failure> {
        loop {
            let ended = || Failure::new(Kind::Unreachable, "the server ended the watch");
            let response = self
                .stream
                .message()
                .await
                .map_err(|error| self.server.failure(&error))?;
            if let Some(message) = self.message(&response.ok_or_else(ended)?) {
                return Ok(message);
            }
        }
    }

    /// What a response says; `None` if it is for nobody.
    fn message(&mut self, response: &WatchResponse) -> Option<Message> {
        let id = response.watch_id();
        if response.created() {
            // They are created in the order in which that was asked.
            *self.ids.iter_mut().find(|known| known.is_none())? = Some(id);
        }
        let which = match self.ids.iter().rposition(|known| *known == Some(id))? {
            0 => Which::Config,
            _ => Which::Leases,
        };
        let state = if response.compact_revision() > 0 {
            WatchState::Compacted
        } else if response.canceled() {
            WatchState::Canceled(response.cancel_reason().to_owned())
        } else if response.created() {
            WatchState::Created
        } else {
            WatchState::Going
        };
        let changes = response
            .events()
            .iter()
            .filter_map(|event| event.kv())
            .map(|pair| {
                // Only what was deleted has no version.
                if pair.version() == 0 {
                    Change::Delete {
                        key: pair.key().to_vec(),
                        revision: pair.mod_revision(),
                    }
                } else {
                    Change::Put(Entry::from(pair))
                }
            });
        Some(Message {
            which,
            moment: Moment::from(response.header()?),
            state,
            changes: changes.collect(),
        })
    }
}
