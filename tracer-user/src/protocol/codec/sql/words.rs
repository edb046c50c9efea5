//! The words of SQL that matter to fingerprints.

/// A word of up to [`MAX_WORD`] bytes, in capitals, as a number.
const fn packed(text: &[u8]) -> u128 {
    let mut number = 0u128;
    let mut at = text.len();
    while at > 0 {
        at -= 1;
        number = (number << 8) | text[at] as u128;
    }
    number
}

/// What makes capitals of small letters, and of no other byte of a word a letter.
const CAPITALS: u128 = 0xdfdf_dfdf_dfdf_dfdf_dfdf_dfdf_dfdf_dfdf;
/// Places of the table of words: three for each, so that most names are known to be none by one look.
const N_PLACES: usize = 512;

/// Where a word's place in the table is, or the first of those where it may be.
const fn place(number: u128) -> usize {
    let mixed = (number as u64 ^ ((number >> 64) as u64).rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> (64 - N_PLACES.trailing_zeros())) as usize
}

/// The longest word is of 13 bytes.
const MAX_WORD: usize = 13;

macro_rules! words {
    (own: $($text:literal $word:ident,)* keys: $($key_text:literal,)*) => {
        /// A word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Word {
            /// None of those below.
            Name,
            /// A keyword of which nothing matters but that an operand comes behind it.
            Key,
            $($word,)*
        }

        const ALL: &[(u128, Word)] =
            &[$((packed($text.as_bytes()), Word::$word),)* $((packed($key_text.as_bytes()), Word::Key),)*];

        impl Word {
            /// The word in capitals.
            pub(super) fn text(self) -> &'static str {
                match self {
                    $(Word::$word => $text,)*
                    Word::Name | Word::Key => "",
                }
            }
        }
    };
}

words! {
    own:
    "ABORT" Abort,
    "ALL" All,
    "ALTER" Alter,
    "ANALYZE" Analyze,
    "ARRAY" Array,
    "AS" As,
    "BEGIN" Begin,
    "BY" By,
    "CALL" Call,
    "CHECKPOINT" Checkpoint,
    "CLOSE" Close,
    "CLUSTER" Cluster,
    "COMMENT" Comment,
    "COMMIT" Commit,
    "CONCURRENTLY" Concurrently,
    "COPY" Copy,
    "CREATE" Create,
    "DATABASE" Database,
    "DEALLOCATE" Deallocate,
    "DECLARE" Declare,
    "DELETE" Delete,
    "DESC" Desc,
    "DESCRIBE" Describe,
    "DISCARD" Discard,
    "DISTINCT" Distinct,
    "DO" Do,
    "DOMAIN" Domain,
    "DROP" Drop,
    "END" End,
    "EVENT" Event,
    "EXCEPT" Except,
    "EXECUTE" Execute,
    "EXISTS" Exists,
    "EXPLAIN" Explain,
    "EXTENSION" Extension,
    "FALSE" False,
    "FETCH" Fetch,
    "FLUSH" Flush,
    "FOR" For,
    "FROM" From,
    "FUNCTION" Function,
    "GRANT" Grant,
    "GROUP" Group,
    "HANDLER" Handler,
    "HAVING" Having,
    "IDENTIFIED" Identified,
    "IF" If,
    "IGNORE" Ignore,
    "IN" In,
    "INDEX" Index,
    "INSERT" Insert,
    "INTERSECT" Intersect,
    "INTO" Into,
    "IS" Is,
    "JOIN" Join,
    "KILL" Kill,
    "LATERAL" Lateral,
    "LIMIT" Limit,
    "LISTEN" Listen,
    "LOAD" Load,
    "LOCK" Lock,
    "MATERIALIZED" Materialized,
    "MERGE" Merge,
    "MOVE" Move,
    "NOT" Not,
    "NOTIFY" Notify,
    "NULL" Null,
    "ON" On,
    "ONLY" Only,
    "OPTIMIZE" Optimize,
    "ORDER" Order,
    "PASSWORD" Password,
    "PREPARE" Prepare,
    "PROCEDURE" Procedure,
    "REASSIGN" Reassign,
    "RECURSIVE" Recursive,
    "REFRESH" Refresh,
    "REINDEX" Reindex,
    "RELEASE" Release,
    "RENAME" Rename,
    "REPLACE" Replace,
    "RESET" Reset,
    "RETURNING" Returning,
    "REVOKE" Revoke,
    "ROLE" Role,
    "ROLLBACK" Rollback,
    "SAVEPOINT" Savepoint,
    "SCHEMA" Schema,
    "SELECT" Select,
    "SEQUENCE" Sequence,
    "SET" Set,
    "SHOW" Show,
    "START" Start,
    "STRAIGHT_JOIN" StraightJoin,
    "SYSTEM" System,
    "TABLE" Table,
    "TABLES" Tables,
    "TEMP" Temp,
    "TEMPORARY" Temporary,
    "TO" To,
    "TRANSACTION" Transaction,
    "TRIGGER" Trigger,
    "TRUE" True,
    "TRUNCATE" Truncate,
    "TYPE" Type,
    "UNION" Union,
    "UNLISTEN" Unlisten,
    "UNLOCK" Unlock,
    "UNLOGGED" Unlogged,
    "UPDATE" Update,
    "USE" Use,
    "USER" User,
    "USING" Using,
    "VACUUM" Vacuum,
    "VALUES" Values,
    "VIEW" View,
    "WHERE" Where,
    "WINDOW" Window,
    "WITH" With,
    "XA" Xa,
    keys:
    "AND",
    "ANY",
    "BETWEEN",
    "CASCADE",
    "CASE",
    "COLLATE",
    "CONFLICT",
    "CROSS",
    "DEFAULT",
    "DIV",
    "DUPLICATE",
    "ELSE",
    "ILIKE",
    "INNER",
    "INTERVAL",
    "LIKE",
    "MOD",
    "NATURAL",
    "OFFSET",
    "OR",
    "OUTER",
    "REGEXP",
    "RETURN",
    "RLIKE",
    "SIMILAR",
    "SOME",
    "THEN",
    "WHEN",
    "WITHIN",
    "XOR",
}

/// For each place a word's number in [`ALL`], from 1 on; 0 where there is none. A word whose place is taken has the next free one.
static PLACES: [u8; N_PLACES] = {
    assert!(ALL.len() < u8::MAX as usize && N_PLACES > ALL.len());
    let mut places = [0; N_PLACES];
    let mut at = 0;
    while at < ALL.len() {
        let mut place = place(ALL[at].0);
        while places[place] != 0 {
            place = (place + 1) % N_PLACES;
        }
        at += 1;
        places[place] = at as u8;
    }
    places
};

/// Which word the bytes of `sql` from `start` to `end` are, in any case. They are letters, digits, `_` and `$`.
#[inline]
pub(super) fn word(sql: &[u8], start: usize, end: usize) -> Word {
    let len = end - start;
    if len > MAX_WORD {
        return Word::Name;
    }
    let number = match sql.get(start..).and_then(|rest| rest.first_chunk::<16>()) {
        Some(chunk) => u128::from_le_bytes(*chunk),
        None => {
            let mut chunk = [0; 16];
            chunk[..len].copy_from_slice(&sql[start..end]);
            u128::from_le_bytes(chunk)
        }
    };
    let number = number & CAPITALS & ((1 << (8 * len)) - 1);
    let mut place = place(number);
    loop {
        let at = usize::from(PLACES[place]);
        if at == 0 {
            return Word::Name;
        }
        let (known, word) = ALL[at - 1];
        if known == number {
            return word;
        }
        place = (place + 1) % N_PLACES;
    }
}
