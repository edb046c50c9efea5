//! The words of SQL that matter to fingerprints.

/// A word of up to [`MAX_WORD`] bytes as a number.
const fn packed(text: &[u8]) -> u128 {
    let mut number = 0u128;
    let mut at = 0;
    while at < text.len() {
        number = (number << 8) | text[at] as u128;
        at += 1;
    }
    number
}

/// The longest word is of 13 bytes.
const MAX_WORD: usize = 13;

macro_rules! words {
    (own: $($text:literal $word:ident,)* keys: $($key_text:literal $key:ident,)*) => {
        /// A word.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(super) enum Word {
            /// None of those below.
            Name,
            /// A keyword of which nothing matters but that an operand comes behind it.
            Key,
            $($word,)*
        }

        /// As numbers, so that a word is found by a binary search that the compiler writes.
        #[allow(non_upper_case_globals, reason = "named as the words are")]
        mod number {
            $(pub(super) const $word: u128 = super::packed($text.as_bytes());)*
            $(pub(super) const $key: u128 = super::packed($key_text.as_bytes());)*
        }

        impl Word {
            fn find(number: u128) -> Word {
                match number {
                    $(number::$word => Word::$word,)*
                    $(number::$key => Word::Key,)*
                    _ => Word::Name,
                }
            }

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
    "AND" And,
    "ANY" Any,
    "BETWEEN" Between,
    "CASCADE" Cascade,
    "CASE" Case,
    "COLLATE" Collate,
    "CONFLICT" Conflict,
    "CROSS" Cross,
    "DEFAULT" Default,
    "DIV" Div,
    "DUPLICATE" Duplicate,
    "ELSE" Else,
    "ILIKE" Ilike,
    "INNER" Inner,
    "INTERVAL" Interval,
    "LIKE" Like,
    "MOD" Mod,
    "NATURAL" Natural,

    "OFFSET" Offset,
    "OR" Or,
    "OUTER" Outer,
    "REGEXP" Regexp,
    "RETURN" Return,
    "RLIKE" Rlike,
    "SIMILAR" Similar,
    "SOME" Some,
    "THEN" Then,
    "WHEN" When,
    "WITHIN" Within,
    "XOR" Xor,
}

/// Which word it is, in any case.
pub(super) fn word(text: &[u8]) -> Word {
    if text.len() > MAX_WORD {
        return Word::Name;
    }
    let mut number = 0u128;
    for &byte in text {
        number = (number << 8) | u128::from(byte.to_ascii_uppercase());
    }
    Word::find(number)
}
