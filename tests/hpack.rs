//! HPACK against the examples of RFC 7541 (appendix C), against another implementation, and behind losses.

use httlib_hpack::Encoder;
use proptest::{collection::vec, prelude::*, sample::select};
use tracer_user::protocol::codec::hpack::{Decoder, Field};

type Pair = (Vec<u8>, Vec<u8>);

/// Decodes a block and keeps everything; an unknown field is `None`.
fn decode(decoder: &mut Decoder, block: &[u8]) -> Option<Vec<Option<Pair>>> {
    let mut fields = Vec::new();
    let good = decoder.decode(
        block,
        |_| true,
        |field| {
            fields.push(match field {
                Field::Known { name, value, shared } => {
                    assert!(shared.is_none_or(|shared| shared == value));
                    Some((name.to_vec(), value.to_vec()))
                }
                Field::Unknown => None,
            });
        },
    );
    good.then_some(fields)
}

fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.chars().filter_map(|digit| digit.to_digit(16)).collect();
    digits.chunks(2).map(|pair| (pair[0] << 4 | pair[1]) as u8).collect()
}

/// A block in hexadecimal, the fields that it holds, and the table's size and number of entries behind it.
type Example<'a> = (&'a str, &'a [(&'a str, &'a str)], u32, usize);

#[track_caller]
fn check(decoder: &mut Decoder, examples: &[Example<'_>]) {
    for (block, fields, size, n_entries) in examples {
        let read = decode(decoder, &hex(block)).expect("a block");
        let fields: Vec<_> = fields
            .iter()
            .map(|(name, value)| Some((name.as_bytes().to_vec(), value.as_bytes().to_vec())))
            .collect();
        assert_eq!(read, fields, "{block}");
        assert_eq!((decoder.size(), decoder.n_entries()), (*size, *n_entries), "{block}");
        assert!(decoder.is_sound());
    }
}

#[test]
fn single_fields_of_appendix_c2() {
    let cases: [(&str, (&str, &str), u32); 4] = [
        (
            "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
            ("custom-key", "custom-header"),
            55,
        ),
        ("040c 2f73 616d 706c 652f 7061 7468", (":path", "/sample/path"), 0),
        ("1008 7061 7373 776f 7264 0673 6563 7265 74", ("password", "secret"), 0),
        ("82", (":method", "GET"), 0),
    ];
    for (block, field, size) in cases {
        check(&mut Decoder::default(), &[(block, &[field], size, usize::from(size > 0))]);
    }
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

#[test]
fn requests_of_appendix_c3_without_huffman() {
    check(
        &mut Decoder::default(),
        &[
            ("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d", REQUESTS[0], 57, 1),
            ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1], 110, 2),
            ("8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65", REQUESTS[2], 164, 3),
        ],
    );
}

#[test]
fn requests_of_appendix_c4_with_huffman() {
    check(
        &mut Decoder::default(),
        &[
            ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0], 57, 1),
            ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1], 110, 2),
            ("8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf", REQUESTS[2], 164, 3),
        ],
    );
}

const SET_COOKIE: &str = "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1";

fn responses() -> [Vec<(&'static str, &'static str)>; 3] {
    let cache = ("cache-control", "private");
    let location = ("location", "https://www.example.com");
    let date = |date| ("date", date);
    let first = date("Mon, 21 Oct 2013 20:13:21 GMT");
    [
        vec![(":status", "302"), cache, first, location],
        vec![(":status", "307"), cache, first, location],
        vec![
            (":status", "200"),
            cache,
            date("Mon, 21 Oct 2013 20:13:22 GMT"),
            location,
            ("content-encoding", "gzip"),
            ("set-cookie", SET_COOKIE),
        ],
    ]
}

#[test]
fn responses_of_appendix_c5_with_evictions() {
    let [first, second, third] = responses();
    let mut decoder = Decoder::default();
    assert_eq!(decode(&mut decoder, &hex("3fe1 01")), Some(vec![]), "a table of 256 bytes");
    check(
        &mut decoder,
        &[
            (
                "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 \
                 2032 303a 3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 \
                 6c65 2e63 6f6d",
                &first,
                222,
                4,
            ),
            ("4803 3330 37c1 c0bf", &second, 222, 4),
            (
                "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d \
                 54c0 5a04 677a 6970 7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 \
                 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
                &third,
                215,
                3,
            ),
        ],
    );
}

#[test]
fn responses_of_appendix_c6_with_huffman_and_evictions() {
    let [first, second, third] = responses();
    let mut decoder = Decoder::default();
    assert_eq!(decode(&mut decoder, &hex("3fe1 01")), Some(vec![]), "a table of 256 bytes");
    check(
        &mut decoder,
        &[
            (
                "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 \
                 2d1b ff6e 919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
                &first,
                222,
                4,
            ),
            ("4883 640e ffc1 c0bf", &second, 222, 4),
            (
                "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab \
                 77ad 94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f \
                 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
                &third,
                215,
                3,
            ),
        ],
    );
}

#[test]
fn integers_of_appendix_c1_and_ones_that_are_too_long() {
    // 1337 with five bits is a table's size; beyond the bound the oldest entries are unknown, which is no fault.
    let mut decoder = Decoder::default();
    assert_eq!(decode(&mut decoder, &hex("3f9a 0a")), Some(vec![]));
    assert!(!decoder.is_lost());
    assert_eq!(decode(&mut decoder, &hex("3fe1ff7f")), Some(vec![]), "more than the settings allow");
    assert!(decoder.is_lost() && decoder.is_sound());
    for bad in ["3fffffffffff7f", "3f8080808080800f", "3f", "80", "c0ffffff", "0085ffff", "418cf1", "40ff"] {
        assert_eq!(decode(&mut Decoder::default(), &hex(bad)), None, "{bad}");
    }
    assert_eq!(decode(&mut Decoder::default(), &hex("be")), None, "an entry that is not there");
}

#[test]
fn behind_a_loss_only_entries_that_were_added_since_are_known() {
    let mut decoder = Decoder::default();
    decode(&mut decoder, &hex("8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d")).unwrap();
    decoder.lose();
    let field = |name: &str, value: &str| Some((name.as_bytes().to_vec(), value.as_bytes().to_vec()));
    // The newest entry was there before.
    assert_eq!(decode(&mut decoder, &hex("82be")).unwrap(), [field(":method", "GET"), None]);
    // One is added: the newest is known, the one behind it is not, nor is a value under that one's name.
    let more = decode(&mut decoder, &hex("5808 6e6f 2d63 6163 6865 be bf 7f00 0131")).unwrap();
    let no_cache = field("cache-control", "no-cache");
    assert_eq!(more, [no_cache.clone(), no_cache.clone(), None, None]);
    // What was added under an unknown name is unknown, and moves the others.
    assert_eq!(decode(&mut decoder, &hex("bebf")).unwrap(), [None, no_cache]);
    // A table that was emptied is known again: now there is no such entry.
    assert_eq!(decode(&mut decoder, &hex("20be")), None);
}

/// Fields that come again, and some that do not.
fn field() -> impl Strategy<Value = Pair> {
    let name = select(vec![":path", ":authority", "x-a", "x-b", "cookie", "content-type", "accept"]);
    let value = prop_oneof![
        3 => select(vec!["/", "a", "text/html", "/index.html"]).prop_map(|text| text.as_bytes().to_vec()),
        2 => vec(any::<u8>(), 0..30),
        1 => vec(any::<u8>(), 200..2500),
    ];
    (name, value).prop_map(|(name, value)| (name.as_bytes().to_vec(), value))
}

#[derive(Clone, Debug)]
struct Coded {
    fields: Vec<(Pair, u8)>,
    resize: Option<u32>,
}

fn blocks() -> impl Strategy<Value = Vec<Coded>> {
    let flags = prop_oneof![
        4 => Just(Encoder::WITH_INDEXING | Encoder::BEST_FORMAT),
        1 => Just(Encoder::NEVER_INDEXED | Encoder::BEST_FORMAT),
        1 => Just(0),
    ];
    let huffman = select(vec![0, Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE, Encoder::HUFFMAN_VALUE]);
    let field = (field(), flags, huffman).prop_map(|(field, flags, huffman)| (field, flags | huffman));
    let resize = prop_oneof![6 => Just(None), 1 => (0..4096u32).prop_map(Some)];
    vec((vec(field, 0..8), resize).prop_map(|(fields, resize)| Coded { fields, resize }), 1..20)
}

fn encode(encoder: &mut Encoder<'_>, coded: &Coded) -> Vec<u8> {
    let mut block = Vec::new();
    if let Some(size) = coded.resize {
        encoder.update_max_dynamic_size(size, &mut block).unwrap();
    }
    for ((name, value), flags) in &coded.fields {
        encoder.encode((name.clone(), value.clone(), *flags), &mut block).unwrap();
    }
    block
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// What another implementation encodes and decodes is read alike; behind blocks that were lost, and through a saved state,
    /// what is known is right.
    #[test]
    fn another_implementation_agrees(blocks in blocks(), lost in vec(any::<bool>(), 20)) {
        let mut encoder = Encoder::default();
        let mut oracle = httlib_hpack::Decoder::default();
        let (mut whole, mut lossy) = (Decoder::default(), Decoder::default());
        for (coded, lost) in blocks.iter().zip(lost) {
            let block = encode(&mut encoder, coded);
            let mut theirs = Vec::new();
            oracle.decode(&mut block.clone(), &mut theirs).unwrap();
            let sent: Vec<Option<Pair>> = coded.fields.iter().map(|(field, _)| Some(field.clone())).collect();
            let theirs: Vec<Option<Pair>> =
                theirs.into_iter().filter(|(name, _, _)| !name.is_empty()).map(|(name, value, _)| Some((name, value))).collect();
            let ours = decode(&mut whole, &block).expect("a block");
            prop_assert_eq!(&ours, &sent);
            prop_assert_eq!(&ours, &theirs);
            prop_assert!(whole.is_sound());
            let saved: Decoder = serde_json::from_value(serde_json::to_value(&whole).unwrap()).unwrap();
            prop_assert_eq!(&saved, &whole);
            if lost {
                lossy.lose();
                continue;
            }
            let some = decode(&mut lossy, &block).expect("tolerant behind a loss");
            prop_assert!(lossy.is_sound());
            prop_assert_eq!(some.len(), sent.len());
            for (known, sent) in some.iter().zip(&sent) {
                prop_assert!(known.is_none() || known == sent, "{:?} is not {:?}", known, sent);
            }
        }
    }

    #[test]
    fn any_bytes_are_survived_within_bounds(blocks in vec(vec(any::<u8>(), 0..200), 1..10), allowed in any::<u32>()) {
        let mut decoder = Decoder::default();
        decoder.allow(allowed);
        for block in blocks {
            if decode(&mut decoder, &block).is_none() {
                decoder.lose();
            }
            prop_assert!(decoder.is_sound());
        }
    }
}
