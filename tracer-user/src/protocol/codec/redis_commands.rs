//! The commands of Redis: their names, and where their keys stand (`COMMAND` of Redis 7.0.15, and by hand what Redis 8, Valkey
//! and the usual modules have more).

/// A command; of container commands, one of their subcommands (`CONFIG GET`).
#[derive(Debug)]
pub struct Command {
    /// In upper case.
    pub name: &'static str,
    /// Which arguments are keys or fields.
    pub keys: Keys,
    /// What it does to the connection or to its own answer.
    pub act: Act,
}

/// Which arguments are keys or fields; argument 0 is the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// None.
    None,
    /// Every `step`-th from `first` to `last`; negative: from the end (-1 is the last argument).
    Range {
        /// Index.
        first: usize,
        /// Index.
        last: isize,
        /// At least 1.
        step: usize,
    },
    /// A key, then fields and values by turns.
    Fields,
    /// As many as argument `at` says, right behind it; `destination`: argument 1 is one too.
    Counted {
        /// Index.
        at: usize,
        /// Whether argument 1 is a key.
        destination: bool,
    },
    /// The first half of what follows the word `STREAMS`; options begin at argument `from`.
    Streams {
        /// Index.
        from: usize,
    },
}

/// What a command does to the connection, or to its own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    None,
    /// The second word is part of its name.
    Container,
    /// Waits for others by its nature.
    Blocks,
    /// Commands behind it are queued.
    Multi,
    /// They are carried out.
    Exec,
    /// They are forgotten.
    Discard,
    /// Another database.
    Select,
    /// Another version of the protocol.
    Hello,
    /// The connection is as new.
    Reset,
    /// `CLIENT REPLY`.
    Reply,
    /// `REPLCONF`: some forms are not answered.
    Replconf,
    /// One confirmation for each channel.
    Subscribe(Which),
    /// The same; without channels, one for each that was subscribed to.
    Unsubscribe(Which),
    /// The answer never ends.
    Monitor,
    /// The answer never ends.
    Sync,
}

/// What is subscribed to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// Channels.
    Channels,
    /// Patterns.
    Patterns,
    /// Channels of a shard.
    Shards,
}

/// Longest name of a command in the table.
const MAX_NAME: usize = 32;

/// The command with that name, in any case.
pub fn find(name: &[u8]) -> Option<&'static Command> {
    let mut upper = [0; MAX_NAME];
    let upper = upper.get_mut(..name.len())?;
    upper.copy_from_slice(name);
    upper.make_ascii_uppercase();
    look_up(upper)
}

/// The subcommand of a container command, in any case.
pub fn find_sub(container: &Command, name: &[u8]) -> Option<&'static Command> {
    let mut both = [0; MAX_NAME];
    let n_container = container.name.len();
    let both = both.get_mut(..n_container + 1 + name.len())?;
    both[..n_container].copy_from_slice(container.name.as_bytes());
    both[n_container] = b' ';
    both[n_container + 1..].copy_from_slice(name);
    both.make_ascii_uppercase();
    look_up(both)
}

/// Some command's name begins with `start` and has `len` bytes.
pub fn may_begin(start: &[u8], len: usize) -> bool {
    COMMANDS.iter().any(|command| {
        let name = command.name.as_bytes();
        name.len() == len
            && !name.contains(&b' ')
            && name.get(..start.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(start))
    })
}

fn look_up(upper: &[u8]) -> Option<&'static Command> {
    let at = COMMANDS.binary_search_by(|command| command.name.as_bytes().cmp(upper)).ok()?;
    COMMANDS.get(at)
}

const fn range(first: usize, last: isize, step: usize) -> Keys {
    Keys::Range { first, last, step }
}

const fn plain(name: &'static str) -> Command {
    Command { name, keys: Keys::None, act: Act::None }
}

const fn keys(name: &'static str, first: usize, last: isize, step: usize) -> Command {
    Command { name, keys: range(first, last, step), act: Act::None }
}

const fn with(name: &'static str, keys: Keys, act: Act) -> Command {
    Command { name, keys, act }
}

/// Sorted by name.
static COMMANDS: &[Command] = &[
    with("ACL", Keys::None, Act::Container),
    plain("ACL CAT"),
    plain("ACL DELUSER"),
    plain("ACL DRYRUN"),
    plain("ACL GENPASS"),
    plain("ACL GETUSER"),
    plain("ACL HELP"),
    plain("ACL LIST"),
    plain("ACL LOAD"),
    plain("ACL LOG"),
    plain("ACL SAVE"),
    plain("ACL SETUSER"),
    plain("ACL USERS"),
    plain("ACL WHOAMI"),
    keys("APPEND", 1, 1, 1),
    plain("ASKING"),
    plain("AUTH"),
    keys("BF.ADD", 1, 1, 1),
    keys("BF.CARD", 1, 1, 1),
    keys("BF.EXISTS", 1, 1, 1),
    keys("BF.INFO", 1, 1, 1),
    keys("BF.INSERT", 1, 1, 1),
    keys("BF.LOADCHUNK", 1, 1, 1),
    keys("BF.MADD", 1, 1, 1),
    keys("BF.MEXISTS", 1, 1, 1),
    keys("BF.RESERVE", 1, 1, 1),
    keys("BF.SCANDUMP", 1, 1, 1),
    plain("BGREWRITEAOF"),
    plain("BGSAVE"),
    keys("BITCOUNT", 1, 1, 1),
    keys("BITFIELD", 1, 1, 1),
    keys("BITFIELD_RO", 1, 1, 1),
    keys("BITOP", 2, -1, 1),
    keys("BITPOS", 1, 1, 1),
    with("BLMOVE", range(1, 2, 1), Act::Blocks),
    with("BLMPOP", Keys::Counted { at: 2, destination: false }, Act::Blocks),
    with("BLPOP", range(1, -2, 1), Act::Blocks),
    with("BRPOP", range(1, -2, 1), Act::Blocks),
    with("BRPOPLPUSH", range(1, 2, 1), Act::Blocks),
    with("BZMPOP", Keys::Counted { at: 2, destination: false }, Act::Blocks),
    with("BZPOPMAX", range(1, -2, 1), Act::Blocks),
    with("BZPOPMIN", range(1, -2, 1), Act::Blocks),
    keys("CF.ADD", 1, 1, 1),
    keys("CF.ADDNX", 1, 1, 1),
    keys("CF.COUNT", 1, 1, 1),
    keys("CF.DEL", 1, 1, 1),
    keys("CF.EXISTS", 1, 1, 1),
    keys("CF.INFO", 1, 1, 1),
    keys("CF.INSERT", 1, 1, 1),
    keys("CF.INSERTNX", 1, 1, 1),
    keys("CF.MEXISTS", 1, 1, 1),
    keys("CF.RESERVE", 1, 1, 1),
    with("CLIENT", Keys::None, Act::Container),
    plain("CLIENT CACHING"),
    plain("CLIENT CAPA"),
    plain("CLIENT GETNAME"),
    plain("CLIENT GETREDIR"),
    plain("CLIENT HELP"),
    plain("CLIENT ID"),
    plain("CLIENT INFO"),
    plain("CLIENT KILL"),
    plain("CLIENT LIST"),
    plain("CLIENT NO-EVICT"),
    plain("CLIENT NO-TOUCH"),
    plain("CLIENT PAUSE"),
    with("CLIENT REPLY", Keys::None, Act::Reply),
    plain("CLIENT SETINFO"),
    plain("CLIENT SETNAME"),
    plain("CLIENT TRACKING"),
    plain("CLIENT TRACKINGINFO"),
    plain("CLIENT UNBLOCK"),
    plain("CLIENT UNPAUSE"),
    with("CLUSTER", Keys::None, Act::Container),
    plain("CLUSTER ADDSLOTS"),
    plain("CLUSTER ADDSLOTSRANGE"),
    plain("CLUSTER BUMPEPOCH"),
    plain("CLUSTER COUNT-FAILURE-REPORTS"),
    plain("CLUSTER COUNTKEYSINSLOT"),
    plain("CLUSTER DELSLOTS"),
    plain("CLUSTER DELSLOTSRANGE"),
    plain("CLUSTER FAILOVER"),
    plain("CLUSTER FLUSHSLOTS"),
    plain("CLUSTER FORGET"),
    plain("CLUSTER GETKEYSINSLOT"),
    plain("CLUSTER HELP"),
    plain("CLUSTER INFO"),
    plain("CLUSTER KEYSLOT"),
    plain("CLUSTER LINKS"),
    plain("CLUSTER MEET"),
    plain("CLUSTER MYID"),
    plain("CLUSTER MYSHARDID"),
    plain("CLUSTER NODES"),
    plain("CLUSTER REPLICAS"),
    plain("CLUSTER REPLICATE"),
    plain("CLUSTER RESET"),
    plain("CLUSTER SAVECONFIG"),
    plain("CLUSTER SET-CONFIG-EPOCH"),
    plain("CLUSTER SETSLOT"),
    plain("CLUSTER SHARDS"),
    plain("CLUSTER SLAVES"),
    plain("CLUSTER SLOT-STATS"),
    plain("CLUSTER SLOTS"),
    keys("CMS.INCRBY", 1, 1, 1),
    keys("CMS.INFO", 1, 1, 1),
    keys("CMS.INITBYDIM", 1, 1, 1),
    keys("CMS.INITBYPROB", 1, 1, 1),
    keys("CMS.MERGE", 1, 1, 1),
    keys("CMS.QUERY", 1, 1, 1),
    with("COMMAND", Keys::None, Act::Container),
    plain("COMMAND COUNT"),
    plain("COMMAND DOCS"),
    plain("COMMAND GETKEYS"),
    plain("COMMAND GETKEYSANDFLAGS"),
    plain("COMMAND HELP"),
    plain("COMMAND INFO"),
    plain("COMMAND LIST"),
    with("COMMANDLOG", Keys::None, Act::Container),
    plain("COMMANDLOG GET"),
    plain("COMMANDLOG HELP"),
    plain("COMMANDLOG LEN"),
    plain("COMMANDLOG RESET"),
    with("CONFIG", Keys::None, Act::Container),
    plain("CONFIG GET"),
    plain("CONFIG HELP"),
    plain("CONFIG RESETSTAT"),
    plain("CONFIG REWRITE"),
    plain("CONFIG SET"),
    keys("COPY", 1, 2, 1),
    plain("DBSIZE"),
    plain("DEBUG"),
    keys("DECR", 1, 1, 1),
    keys("DECRBY", 1, 1, 1),
    keys("DEL", 1, -1, 1),
    keys("DELEX", 1, 1, 1),
    keys("DELIFEQ", 1, 1, 1),
    keys("DIGEST", 1, 1, 1),
    with("DISCARD", Keys::None, Act::Discard),
    keys("DUMP", 1, 1, 1),
    plain("ECHO"),
    with("EVAL", Keys::Counted { at: 2, destination: false }, Act::None),
    with("EVALSHA", Keys::Counted { at: 2, destination: false }, Act::None),
    with("EVALSHA_RO", Keys::Counted { at: 2, destination: false }, Act::None),
    with("EVAL_RO", Keys::Counted { at: 2, destination: false }, Act::None),
    with("EXEC", Keys::None, Act::Exec),
    keys("EXISTS", 1, -1, 1),
    keys("EXPIRE", 1, 1, 1),
    keys("EXPIREAT", 1, 1, 1),
    keys("EXPIRETIME", 1, 1, 1),
    plain("FAILOVER"),
    with("FCALL", Keys::Counted { at: 2, destination: false }, Act::None),
    with("FCALL_RO", Keys::Counted { at: 2, destination: false }, Act::None),
    plain("FLUSHALL"),
    plain("FLUSHDB"),
    plain("FT.AGGREGATE"),
    plain("FT.ALTER"),
    plain("FT.CREATE"),
    plain("FT.CURSOR"),
    plain("FT.DROPINDEX"),
    plain("FT.EXPLAIN"),
    plain("FT.HYBRID"),
    plain("FT.INFO"),
    plain("FT.PROFILE"),
    plain("FT.SEARCH"),
    plain("FT.SPELLCHECK"),
    plain("FT.SUGADD"),
    plain("FT.SUGGET"),
    plain("FT.SUGLEN"),
    plain("FT.TAGVALS"),
    plain("FT._LIST"),
    with("FUNCTION", Keys::None, Act::Container),
    plain("FUNCTION DELETE"),
    plain("FUNCTION DUMP"),
    plain("FUNCTION FLUSH"),
    plain("FUNCTION HELP"),
    plain("FUNCTION KILL"),
    plain("FUNCTION LIST"),
    plain("FUNCTION LOAD"),
    plain("FUNCTION RESTORE"),
    plain("FUNCTION STATS"),
    keys("GEOADD", 1, 1, 1),
    keys("GEODIST", 1, 1, 1),
    keys("GEOHASH", 1, 1, 1),
    keys("GEOPOS", 1, 1, 1),
    keys("GEORADIUS", 1, 1, 1),
    keys("GEORADIUSBYMEMBER", 1, 1, 1),
    keys("GEORADIUSBYMEMBER_RO", 1, 1, 1),
    keys("GEORADIUS_RO", 1, 1, 1),
    keys("GEOSEARCH", 1, 1, 1),
    keys("GEOSEARCHSTORE", 1, 2, 1),
    keys("GET", 1, 1, 1),
    keys("GETBIT", 1, 1, 1),
    keys("GETDEL", 1, 1, 1),
    keys("GETEX", 1, 1, 1),
    keys("GETRANGE", 1, 1, 1),
    keys("GETSET", 1, 1, 1),
    keys("HDEL", 1, -1, 1),
    with("HELLO", Keys::None, Act::Hello),
    keys("HEXISTS", 1, 2, 1),
    keys("HEXPIRE", 1, 1, 1),
    keys("HEXPIREAT", 1, 1, 1),
    keys("HEXPIRETIME", 1, 1, 1),
    keys("HGET", 1, 2, 1),
    keys("HGETALL", 1, 1, 1),
    keys("HGETDEL", 1, 1, 1),
    keys("HGETEX", 1, 1, 1),
    keys("HINCRBY", 1, 2, 1),
    keys("HINCRBYFLOAT", 1, 2, 1),
    keys("HKEYS", 1, 1, 1),
    keys("HLEN", 1, 1, 1),
    keys("HMGET", 1, -1, 1),
    with("HMSET", Keys::Fields, Act::None),
    keys("HPERSIST", 1, 1, 1),
    keys("HPEXPIRE", 1, 1, 1),
    keys("HPEXPIREAT", 1, 1, 1),
    keys("HPEXPIRETIME", 1, 1, 1),
    keys("HPTTL", 1, 1, 1),
    keys("HRANDFIELD", 1, 1, 1),
    keys("HSCAN", 1, 1, 1),
    with("HSET", Keys::Fields, Act::None),
    keys("HSETEX", 1, 1, 1),
    keys("HSETNX", 1, 2, 1),
    keys("HSTRLEN", 1, 2, 1),
    keys("HTTL", 1, 1, 1),
    keys("HVALS", 1, 1, 1),
    keys("INCR", 1, 1, 1),
    keys("INCRBY", 1, 1, 1),
    keys("INCRBYFLOAT", 1, 1, 1),
    plain("INFO"),
    keys("JSON.ARRAPPEND", 1, 1, 1),
    keys("JSON.ARRINDEX", 1, 1, 1),
    keys("JSON.ARRINSERT", 1, 1, 1),
    keys("JSON.ARRLEN", 1, 1, 1),
    keys("JSON.ARRPOP", 1, 1, 1),
    keys("JSON.ARRTRIM", 1, 1, 1),
    keys("JSON.CLEAR", 1, 1, 1),
    keys("JSON.DEL", 1, 1, 1),
    keys("JSON.FORGET", 1, 1, 1),
    keys("JSON.GET", 1, 1, 1),
    keys("JSON.MERGE", 1, 1, 1),
    keys("JSON.MGET", 1, -2, 1),
    keys("JSON.MSET", 1, -1, 3),
    keys("JSON.NUMINCRBY", 1, 1, 1),
    keys("JSON.NUMMULTBY", 1, 1, 1),
    keys("JSON.OBJKEYS", 1, 1, 1),
    keys("JSON.OBJLEN", 1, 1, 1),
    keys("JSON.RESP", 1, 1, 1),
    keys("JSON.SET", 1, 1, 1),
    keys("JSON.STRAPPEND", 1, 1, 1),
    keys("JSON.STRLEN", 1, 1, 1),
    keys("JSON.TOGGLE", 1, 1, 1),
    keys("JSON.TYPE", 1, 1, 1),
    plain("KEYS"),
    plain("LASTSAVE"),
    with("LATENCY", Keys::None, Act::Container),
    plain("LATENCY DOCTOR"),
    plain("LATENCY GRAPH"),
    plain("LATENCY HELP"),
    plain("LATENCY HISTOGRAM"),
    plain("LATENCY HISTORY"),
    plain("LATENCY LATEST"),
    plain("LATENCY RESET"),
    keys("LCS", 1, 2, 1),
    keys("LINDEX", 1, 1, 1),
    keys("LINSERT", 1, 1, 1),
    keys("LLEN", 1, 1, 1),
    keys("LMOVE", 1, 2, 1),
    with("LMPOP", Keys::Counted { at: 1, destination: false }, Act::None),
    plain("LOLWUT"),
    keys("LPOP", 1, 1, 1),
    keys("LPOS", 1, 1, 1),
    keys("LPUSH", 1, 1, 1),
    keys("LPUSHX", 1, 1, 1),
    keys("LRANGE", 1, 1, 1),
    keys("LREM", 1, 1, 1),
    keys("LSET", 1, 1, 1),
    keys("LTRIM", 1, 1, 1),
    with("MEMORY", Keys::None, Act::Container),
    plain("MEMORY DOCTOR"),
    plain("MEMORY HELP"),
    plain("MEMORY MALLOC-STATS"),
    plain("MEMORY PURGE"),
    plain("MEMORY STATS"),
    keys("MEMORY USAGE", 2, 2, 1),
    keys("MGET", 1, -1, 1),
    keys("MIGRATE", 3, 3, 1),
    with("MODULE", Keys::None, Act::Container),
    plain("MODULE HELP"),
    plain("MODULE LIST"),
    plain("MODULE LOAD"),
    plain("MODULE LOADEX"),
    plain("MODULE UNLOAD"),
    with("MONITOR", Keys::None, Act::Monitor),
    keys("MOVE", 1, 1, 1),
    keys("MSET", 1, -1, 2),
    keys("MSETNX", 1, -1, 2),
    with("MULTI", Keys::None, Act::Multi),
    with("OBJECT", Keys::None, Act::Container),
    keys("OBJECT ENCODING", 2, 2, 1),
    keys("OBJECT FREQ", 2, 2, 1),
    plain("OBJECT HELP"),
    keys("OBJECT IDLETIME", 2, 2, 1),
    keys("OBJECT REFCOUNT", 2, 2, 1),
    keys("PERSIST", 1, 1, 1),
    keys("PEXPIRE", 1, 1, 1),
    keys("PEXPIREAT", 1, 1, 1),
    keys("PEXPIRETIME", 1, 1, 1),
    keys("PFADD", 1, 1, 1),
    keys("PFCOUNT", 1, -1, 1),
    keys("PFDEBUG", 2, 2, 1),
    keys("PFMERGE", 1, -1, 1),
    plain("PFSELFTEST"),
    plain("PING"),
    keys("PSETEX", 1, 1, 1),
    with("PSUBSCRIBE", range(1, -1, 1), Act::Subscribe(Which::Patterns)),
    with("PSYNC", Keys::None, Act::Sync),
    keys("PTTL", 1, 1, 1),
    keys("PUBLISH", 1, 1, 1),
    with("PUBSUB", Keys::None, Act::Container),
    plain("PUBSUB CHANNELS"),
    plain("PUBSUB HELP"),
    plain("PUBSUB NUMPAT"),
    plain("PUBSUB NUMSUB"),
    plain("PUBSUB SHARDCHANNELS"),
    plain("PUBSUB SHARDNUMSUB"),
    with("PUNSUBSCRIBE", range(1, -1, 1), Act::Unsubscribe(Which::Patterns)),
    plain("QUIT"),
    plain("RANDOMKEY"),
    plain("READONLY"),
    plain("READWRITE"),
    keys("RENAME", 1, 2, 1),
    keys("RENAMENX", 1, 2, 1),
    with("REPLCONF", Keys::None, Act::Replconf),
    plain("REPLICAOF"),
    with("RESET", Keys::None, Act::Reset),
    keys("RESTORE", 1, 1, 1),
    keys("RESTORE-ASKING", 1, 1, 1),
    plain("ROLE"),
    keys("RPOP", 1, 1, 1),
    keys("RPOPLPUSH", 1, 2, 1),
    keys("RPUSH", 1, 1, 1),
    keys("RPUSHX", 1, 1, 1),
    keys("SADD", 1, 1, 1),
    plain("SAVE"),
    plain("SCAN"),
    keys("SCARD", 1, 1, 1),
    with("SCRIPT", Keys::None, Act::Container),
    plain("SCRIPT DEBUG"),
    plain("SCRIPT EXISTS"),
    plain("SCRIPT FLUSH"),
    plain("SCRIPT HELP"),
    plain("SCRIPT KILL"),
    plain("SCRIPT LOAD"),
    plain("SCRIPT SHOW"),
    keys("SDIFF", 1, -1, 1),
    keys("SDIFFSTORE", 1, -1, 1),
    with("SELECT", Keys::None, Act::Select),
    plain("SENTINEL"),
    keys("SET", 1, 1, 1),
    keys("SETBIT", 1, 1, 1),
    keys("SETEX", 1, 1, 1),
    keys("SETNX", 1, 1, 1),
    keys("SETRANGE", 1, 1, 1),
    plain("SHUTDOWN"),
    keys("SINTER", 1, -1, 1),
    with("SINTERCARD", Keys::Counted { at: 1, destination: false }, Act::None),
    keys("SINTERSTORE", 1, -1, 1),
    keys("SISMEMBER", 1, 1, 1),
    plain("SLAVEOF"),
    with("SLOWLOG", Keys::None, Act::Container),
    plain("SLOWLOG GET"),
    plain("SLOWLOG HELP"),
    plain("SLOWLOG LEN"),
    plain("SLOWLOG RESET"),
    keys("SMEMBERS", 1, 1, 1),
    keys("SMISMEMBER", 1, 1, 1),
    keys("SMOVE", 1, 2, 1),
    keys("SORT", 1, 1, 1),
    keys("SORT_RO", 1, 1, 1),
    keys("SPOP", 1, 1, 1),
    keys("SPUBLISH", 1, 1, 1),
    keys("SRANDMEMBER", 1, 1, 1),
    keys("SREM", 1, 1, 1),
    keys("SSCAN", 1, 1, 1),
    with("SSUBSCRIBE", range(1, -1, 1), Act::Subscribe(Which::Shards)),
    keys("STRLEN", 1, 1, 1),
    with("SUBSCRIBE", range(1, -1, 1), Act::Subscribe(Which::Channels)),
    keys("SUBSTR", 1, 1, 1),
    keys("SUNION", 1, -1, 1),
    keys("SUNIONSTORE", 1, -1, 1),
    with("SUNSUBSCRIBE", range(1, -1, 1), Act::Unsubscribe(Which::Shards)),
    plain("SWAPDB"),
    with("SYNC", Keys::None, Act::Sync),
    keys("TDIGEST.ADD", 1, 1, 1),
    keys("TDIGEST.CREATE", 1, 1, 1),
    keys("TDIGEST.INFO", 1, 1, 1),
    keys("TDIGEST.MAX", 1, 1, 1),
    keys("TDIGEST.MIN", 1, 1, 1),
    keys("TDIGEST.QUANTILE", 1, 1, 1),
    keys("TDIGEST.RESET", 1, 1, 1),
    plain("TIME"),
    keys("TOPK.ADD", 1, 1, 1),
    keys("TOPK.COUNT", 1, 1, 1),
    keys("TOPK.INCRBY", 1, 1, 1),
    keys("TOPK.INFO", 1, 1, 1),
    keys("TOPK.LIST", 1, 1, 1),
    keys("TOPK.QUERY", 1, 1, 1),
    keys("TOPK.RESERVE", 1, 1, 1),
    keys("TOUCH", 1, -1, 1),
    keys("TS.ADD", 1, 1, 1),
    keys("TS.ALTER", 1, 1, 1),
    keys("TS.CREATE", 1, 1, 1),
    keys("TS.CREATERULE", 1, 2, 1),
    keys("TS.DECRBY", 1, 1, 1),
    keys("TS.DEL", 1, 1, 1),
    keys("TS.DELETERULE", 1, 2, 1),
    keys("TS.GET", 1, 1, 1),
    keys("TS.INCRBY", 1, 1, 1),
    keys("TS.INFO", 1, 1, 1),
    keys("TS.MADD", 1, -1, 3),
    plain("TS.MGET"),
    plain("TS.MRANGE"),
    plain("TS.MREVRANGE"),
    plain("TS.QUERYINDEX"),
    keys("TS.RANGE", 1, 1, 1),
    keys("TS.REVRANGE", 1, 1, 1),
    keys("TTL", 1, 1, 1),
    keys("TYPE", 1, 1, 1),
    keys("UNLINK", 1, -1, 1),
    with("UNSUBSCRIBE", range(1, -1, 1), Act::Unsubscribe(Which::Channels)),
    plain("UNWATCH"),
    keys("VADD", 1, 1, 1),
    keys("VCARD", 1, 1, 1),
    keys("VDIM", 1, 1, 1),
    keys("VEMB", 1, 1, 1),
    keys("VGETATTR", 1, 1, 1),
    keys("VINFO", 1, 1, 1),
    keys("VISMEMBER", 1, 1, 1),
    keys("VLINKS", 1, 1, 1),
    keys("VRANDMEMBER", 1, 1, 1),
    keys("VREM", 1, 1, 1),
    keys("VSETATTR", 1, 1, 1),
    keys("VSIM", 1, 1, 1),
    with("WAIT", Keys::None, Act::Blocks),
    with("WAITAOF", Keys::None, Act::Blocks),
    keys("WATCH", 1, -1, 1),
    keys("XACK", 1, 1, 1),
    keys("XACKDEL", 1, 1, 1),
    keys("XADD", 1, 1, 1),
    keys("XAUTOCLAIM", 1, 1, 1),
    keys("XCLAIM", 1, 1, 1),
    keys("XDEL", 1, 1, 1),
    keys("XDELEX", 1, 1, 1),
    with("XGROUP", Keys::None, Act::Container),
    keys("XGROUP CREATE", 2, 2, 1),
    keys("XGROUP CREATECONSUMER", 2, 2, 1),
    keys("XGROUP DELCONSUMER", 2, 2, 1),
    keys("XGROUP DESTROY", 2, 2, 1),
    plain("XGROUP HELP"),
    keys("XGROUP SETID", 2, 2, 1),
    with("XINFO", Keys::None, Act::Container),
    keys("XINFO CONSUMERS", 2, 2, 1),
    keys("XINFO GROUPS", 2, 2, 1),
    plain("XINFO HELP"),
    keys("XINFO STREAM", 2, 2, 1),
    keys("XLEN", 1, 1, 1),
    keys("XPENDING", 1, 1, 1),
    keys("XRANGE", 1, 1, 1),
    with("XREAD", Keys::Streams { from: 1 }, Act::None),
    with("XREADGROUP", Keys::Streams { from: 4 }, Act::None),
    keys("XREVRANGE", 1, 1, 1),
    keys("XSETID", 1, 1, 1),
    keys("XTRIM", 1, 1, 1),
    keys("ZADD", 1, 1, 1),
    keys("ZCARD", 1, 1, 1),
    keys("ZCOUNT", 1, 1, 1),
    with("ZDIFF", Keys::Counted { at: 1, destination: false }, Act::None),
    with("ZDIFFSTORE", Keys::Counted { at: 2, destination: true }, Act::None),
    keys("ZINCRBY", 1, 1, 1),
    with("ZINTER", Keys::Counted { at: 1, destination: false }, Act::None),
    with("ZINTERCARD", Keys::Counted { at: 1, destination: false }, Act::None),
    with("ZINTERSTORE", Keys::Counted { at: 2, destination: true }, Act::None),
    keys("ZLEXCOUNT", 1, 1, 1),
    with("ZMPOP", Keys::Counted { at: 1, destination: false }, Act::None),
    keys("ZMSCORE", 1, 1, 1),
    keys("ZPOPMAX", 1, 1, 1),
    keys("ZPOPMIN", 1, 1, 1),
    keys("ZRANDMEMBER", 1, 1, 1),
    keys("ZRANGE", 1, 1, 1),
    keys("ZRANGEBYLEX", 1, 1, 1),
    keys("ZRANGEBYSCORE", 1, 1, 1),
    keys("ZRANGESTORE", 1, 2, 1),
    keys("ZRANK", 1, 1, 1),
    keys("ZREM", 1, 1, 1),
    keys("ZREMRANGEBYLEX", 1, 1, 1),
    keys("ZREMRANGEBYRANK", 1, 1, 1),
    keys("ZREMRANGEBYSCORE", 1, 1, 1),
    keys("ZREVRANGE", 1, 1, 1),
    keys("ZREVRANGEBYLEX", 1, 1, 1),
    keys("ZREVRANGEBYSCORE", 1, 1, 1),
    keys("ZREVRANK", 1, 1, 1),
    keys("ZSCAN", 1, 1, 1),
    keys("ZSCORE", 1, 1, 1),
    with("ZUNION", Keys::Counted { at: 1, destination: false }, Act::None),
    with("ZUNIONSTORE", Keys::Counted { at: 2, destination: true }, Act::None),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_table_is_found_by_its_name_in_any_case() {
        for command in COMMANDS {
            let lower = command.name.to_ascii_lowercase();
            let found = match lower.split_once(' ') {
                None => find(lower.as_bytes()),
                Some((container, sub)) => find_sub(find(container.as_bytes()).unwrap(), sub.as_bytes()),
            };
            assert_eq!(found.map(|found| found.name), Some(command.name));
        }
        assert!(find(b"NOSUCH").is_none());
        assert!(find(&[b'A'; 200]).is_none());
        assert!(find_sub(find(b"CONFIG").unwrap(), &[b'A'; 200]).is_none());
    }

    #[test]
    fn names_stand_in_order_and_containers_have_subcommands() {
        assert!(COMMANDS.is_sorted_by(|one, next| one.name < next.name));
        for command in COMMANDS {
            let container = command.name.split_once(' ').map(|(container, _)| container);
            let is_sub = |other: &&Command| other.name.starts_with(&format!("{} ", command.name));
            assert_eq!(
                command.act == Act::Container,
                COMMANDS.iter().any(|other| is_sub(&other)),
                "{command:?}"
            );
            assert!(container.is_none_or(|container| find(container.as_bytes()).is_some()), "{command:?}");
        }
    }
}
