//! The tests of `container`: small films made by hand, of each shape; films that lie; any bytes at all.
//! Never here: films that a real muxer made (`tests/drive/containers.rs`), and hours of noise (`tests/fuzz`).

use proptest::prelude::*;

use super::*;

fn joined(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

/// A box of an mp4.
fn boxed(kind: &[u8], content: &[u8]) -> Vec<u8> {
    joined(&[&(content.len() as u32 + 8).to_be_bytes(), kind, content])
}

/// The same, with a size of 64 bits.
fn boxed_long(kind: &[u8], content: &[u8]) -> Vec<u8> {
    joined(&[&1u32.to_be_bytes(), kind, &(content.len() as u64 + 16).to_be_bytes(), content])
}

fn mvhd(units_per_second: u32, units: u32) -> Vec<u8> {
    let fields = [0, 0, 0, units_per_second, units].map(u32::to_be_bytes).concat();
    boxed(b"mvhd", &joined(&[&fields, &[0; 80]]))
}

fn moov() -> Vec<u8> {
    boxed(b"moov", &joined(&[&mvhd(600, 600 * 90 + 300), &boxed(b"trak", &[7; 500])]))
}

fn ftyp() -> Vec<u8> {
    boxed(b"ftyp", b"isom\0\0\0\0isom")
}

/// An element of a Matroska file, its size in so many bytes.
fn element_sized(id: u32, content: &[u8], size_len: usize) -> Vec<u8> {
    let size = (content.len() as u64 | 1 << (7 * size_len)).to_be_bytes();
    joined(&[id_bytes(id).as_slice(), &size[8 - size_len..], content])
}

fn element(id: u32, content: &[u8]) -> Vec<u8> {
    element_sized(id, content, 4)
}

fn id_bytes(id: u32) -> Vec<u8> {
    id.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect()
}

fn seek(id: u32, position: u64) -> Vec<u8> {
    let fields = joined(&[
        &element_sized(0x53AB, &id.to_be_bytes(), 1),
        &[0xEC, 0x80],
        &element_sized(0x53AC, &position.to_be_bytes(), 1),
    ]);
    element_sized(0x4DBB, &fields, 8)
}

const EBML: u32 = 0x1A45_DFA3;
const SEGMENT: u32 = 0x1853_8067;
const SEEK_HEAD: u32 = 0x114D_9B74;
const INFO: u32 = 0x1549_A966;
const CLUSTER: u32 = 0x1F43_B675;
const CUES: u32 = 0x1C53_BB6B;
const TAGS: u32 = 0x1254_C367;
const UNKNOWN_SIZE: [u8; 8] = [1, 255, 255, 255, 255, 255, 255, 255];

/// 90.5 s, in units of 2 ms.
fn info() -> Vec<u8> {
    let scale = element_sized(0x002A_D7B1, &2_000_000u32.to_be_bytes(), 1);
    element(INFO, &joined(&[&element_sized(0x4489, &45_250f64.to_be_bytes(), 1), &scale]))
}

/// A Matroska file: its head, `between` bytes of clusters, what comes behind; the places of both are for `seeks`.
fn matroska(between: usize, seeks: impl Fn(u64) -> Vec<u8>, behind: &[u8], is_sized: bool) -> Vec<u8> {
    let cluster = element(CLUSTER, &vec![1; between]);
    let head_len = element(SEEK_HEAD, &seeks(0)).len() + info().len();
    let head = element(SEEK_HEAD, &seeks((head_len + cluster.len()) as u64));
    let content = joined(&[&head, &info(), &cluster, behind]);
    let segment = if is_sized {
        element_sized(SEGMENT, &content, 8)
    } else {
        joined(&[&id_bytes(SEGMENT), &UNKNOWN_SIZE, &content])
    };
    joined(&[&element(EBML, &[3; 20]), &segment])
}

/// A chunk of an AVI.
fn chunk(name: &[u8], content: &[u8]) -> Vec<u8> {
    joined(&[name, &(content.len() as u32).to_le_bytes(), content, &[0][..content.len() % 2]])
}

fn list(kind: &[u8], content: &[u8]) -> Vec<u8> {
    chunk(b"LIST", &joined(&[kind, content]))
}

fn avih(micros_per_frame: u32, frames: u32) -> Vec<u8> {
    chunk(b"avih", &joined(&[&[micros_per_frame, 0, 0, 0, frames].map(u32::to_le_bytes).concat(), &[0; 36]]))
}

/// An AVI whose `hdrl` ends in `more`.
fn avi(more: &[u8], between: usize) -> Vec<u8> {
    let strl = list(b"strl", &joined(&[&chunk(b"strh", &[0; 56]), &chunk(b"strf", &[0; 41])]));
    let content = joined(&[
        &list(b"hdrl", &joined(&[&avih(40_000, 2250), &strl, more])),
        &chunk(b"JUNK", &[0; 33]),
        &list(b"movi", &vec![0; between]),
        &chunk(b"idx1", &[5; 320]),
    ]);
    chunk(b"RIFF", &joined(&[b"AVI ", &content]))
}

/// Asks until there is nothing more to learn, fetching blocks of `block` bytes; also how often.
fn surveyed(film: &[u8], head: usize, tail: usize, block: usize) -> (Survey, usize) {
    let size = film.len();
    let tail_start = size - tail.min(size);
    let mut pieces = vec![
        Piece { offset: tail_start as u64, bytes: &film[tail_start..] },
        Piece { offset: 0, bytes: &film[..head.min(size)] },
    ];
    for step in 0..=READS_MAX {
        let survey = survey(size as u64, &pieces);
        check(&survey, size as u64, &pieces);
        let Some(next) = survey.next else { return (survey, step) };
        let start = next.start as usize / block * block;
        let end = (next.end as usize).next_multiple_of(block).min(size);
        pieces.push(Piece { offset: start as u64, bytes: &film[start..end] });
    }
    panic!("there is always more to learn");
}

/// What holds of any survey.
fn check(survey: &Survey, size: u64, pieces: &[Piece<'_>]) {
    let file = ByteRange::new(0, size);
    assert!(survey.index.iter().all(|range| !range.is_empty() && file.contains(*range)), "{survey:?} of {size}");
    assert!(survey.index.len() <= INDEX_RANGES_MAX);
    assert!(survey.index.iter().map(|range| range.len()).sum::<u64>() <= INDEX_BYTES_MAX);
    assert!(survey.duration != Some(Duration::ZERO));
    if let Some(next) = survey.next {
        assert!(!next.is_empty() && file.contains(next) && next.len() <= 32, "{survey:?} of {size}");
        let is_known =
            |piece: &Piece<'_>| piece.offset <= next.start && next.start - piece.offset < piece.bytes.len() as u64;
        assert!(!pieces.iter().any(is_known), "{survey:?}: known already");
    }
}

/// What a survey of all of it says; the same must come out of pieces, whatever their sizes.
fn whole(film: &[u8]) -> Survey {
    let all = survey(film.len() as u64, &[Piece { offset: 0, bytes: film }]);
    check(&all, film.len() as u64, &[]);
    assert_eq!(all.next, None);
    for (head, tail, block) in [(0, 0, 1), (64, 0, 64), (200, 100, 16), (64, 64, 4096)] {
        assert_eq!(surveyed(film, head, tail, block).0, all, "{head} {tail} {block}");
    }
    all
}

fn place(film: &[u8], part: &[u8]) -> ByteRange {
    let at = film.windows(part.len()).position(|window| window == part).expect("it is in the film");
    ByteRange::at(at as u64, part.len() as u64)
}

const DURATION: Option<Duration> = Some(Duration::from_millis(90_500));

#[test]
fn moov_behind_mdat() {
    for data in [boxed(b"mdat", &[9; 5000]), boxed_long(b"mdat", &[9; 5000])] {
        let film = joined(&[&ftyp(), &boxed(b"wide", &[]), &data, &boxed(b"free", &[0; 8]), &moov()]);
        let found = whole(&film);
        assert_eq!((found.index, found.duration), (vec![place(&film, &moov())], DURATION));
        // From `mdat` to the block where it ends, and perhaps to the next.
        assert!((1..=2).contains(&surveyed(&film, 64, 0, 64).1));
        assert_eq!(surveyed(&film, 64, 700, 64).1, 0);
    }
}

#[test]
fn moov_before_mdat() {
    let film = joined(&[&ftyp(), &moov(), &boxed(b"mdat", &[9; 5000])]);
    let found = whole(&film);
    assert_eq!((found.index, found.duration), (vec![place(&film, &moov())], DURATION));
    // `mdat` may go to the end without saying how far that is; so may `moov`.
    let film = joined(&[&ftyp(), &moov(), &0u32.to_be_bytes(), b"mdat", &[9; 5000]]);
    assert_eq!(whole(&film).index, [place(&film, &moov())]);
    let mut last = moov();
    last[..4].fill(0);
    let film = joined(&[&boxed(b"mdat", &[9; 5000]), &last]);
    assert_eq!((whole(&film).index, whole(&film).duration), (vec![place(&film, &last)], DURATION));
}

#[test]
fn the_place_of_the_index_is_told_as_soon_as_it_is_known() {
    let film = joined(&[&ftyp(), &moov(), &boxed(b"mdat", &[9; 5000])]);
    let found = survey(film.len() as u64, &[Piece { offset: 0, bytes: &film[..80] }]);
    assert_eq!(found.index, [place(&film, &moov())]);
    assert_eq!(found.duration, DURATION);
    assert_eq!(found.next, Some(ByteRange::at(place(&film, &moov()).end, 16)));
}

#[test]
fn fragmented_films() {
    let mvex = boxed(b"mvex", &boxed(b"mehd", &[0, 0, 0, 0, 0, 0, 0xd4, 0x1c].map(|byte: u8| byte)));
    let moov = boxed(b"moov", &joined(&[&mvhd(600, 0), &boxed(b"trak", &[0; 50]), &mvex]));
    let sidx = boxed(b"sidx", &[4; 80]);
    let fragments = joined(&[&boxed(b"moof", &[0; 40]), &boxed(b"mdat", &[9; 2000])]).repeat(3);
    let last = boxed(b"mfro", &[0, 0, 0, 0, 0, 0, 0, 84]);
    let mfra = boxed(b"mfra", &joined(&[&boxed(b"tfra", &[6; 52]), &last]));
    let film = joined(&[&ftyp(), &moov, &sidx, &fragments, &mfra]);
    let found = whole(&film);
    assert_eq!(found.index, [place(&film, &moov), place(&film, &sidx), place(&film, &mfra)]);
    assert_eq!(found.duration, Some(Duration::new(90, 500_000_000)));
    // Without them it is a film all the same.
    let film = joined(&[&ftyp(), &moov, &fragments]);
    assert_eq!(whole(&film).index, [place(&film, &moov)]);
}

#[test]
fn playing_times_of_an_mp4() {
    let of = |mvhd: &[u8]| whole(&joined(&[&ftyp(), &boxed(b"moov", mvhd), &boxed(b"mdat", &[9; 50])])).duration;
    assert_eq!(of(&mvhd(3, 10)), Some(Duration::new(3, 333_333_333)));
    assert_eq!(of(&mvhd(u32::MAX, u32::MAX - 1)), Some(Duration::new(0, 999_999_999)));
    assert_eq!(of(&mvhd(0, 10)), None);
    assert_eq!(of(&mvhd(600, u32::MAX)), None);
    let long = |units: u64| {
        let fields = joined(&[&[1, 0, 0, 0], &[0; 16], &1000u32.to_be_bytes(), &units.to_be_bytes(), &[0; 80]]);
        boxed(b"mvhd", &fields)
    };
    assert_eq!(of(&long(90_500)), DURATION);
    assert_eq!(of(&long(u64::MAX)), None);
    assert_eq!(of(&long(u64::MAX - 1)), Some(Duration::from_millis(u64::MAX - 1)));
    assert_eq!(of(&boxed(b"cmov", &[1; 90])), None);
}

#[test]
fn cues_by_way_of_the_seek_head() {
    let cues = element(CUES, &[8; 300]);
    let tags = element(TAGS, &[6; 30]);
    for is_sized in [true, false] {
        let seeks = |at| joined(&[&seek(TAGS, at + cues.len() as u64), &seek(CUES, at)]);
        let film = matroska(5000, seeks, &joined(&[&cues, &tags]), is_sized);
        let found = whole(&film);
        assert_eq!((found.index, found.duration), (vec![place(&film, &cues), place(&film, &tags)], DURATION));
        // One step to the header of each.
        assert_eq!(surveyed(&film, 256, 0, 64).1, 2);
        assert_eq!(surveyed(&film, 256, tags.len(), 64).1, 1);
    }
}

#[test]
fn cues_by_way_of_a_second_seek_head() {
    let cues = element(CUES, &[8; 300]);
    // From the start of the segment: a seek head with one entry, the info, a cluster.
    let cues_at = element(SEEK_HEAD, &seek(CUES, 0)).len() + info().len() + element(CLUSTER, &[1; 5000]).len();
    let second = element(SEEK_HEAD, &seek(CUES, cues_at as u64));
    let film = matroska(5000, |at| seek(SEEK_HEAD, at + cues.len() as u64), &joined(&[&cues, &second]), true);
    assert_eq!((whole(&film).index, whole(&film).duration), (vec![place(&film, &cues)], DURATION));
}

#[test]
fn cues_in_front() {
    let cues = element(CUES, &[8; 300]);
    let content = joined(&[&element(0xEC, &[0; 90]), &cues, &info(), &element(CLUSTER, &[0; 3000])]);
    let film = joined(&[&element(EBML, &[3; 20]), &element(SEGMENT, &content)]);
    assert_eq!((whole(&film).index, whole(&film).duration), (vec![place(&film, &cues)], DURATION));
}

#[test]
fn seek_heads_that_lie() {
    let cues = element(CUES, &[8; 300]);
    // To themselves, beyond the end, into a cluster, all of it many times.
    let seeks = |at: u64| {
        let all = [0, 1, 5, at, at + 1, at * 2, u64::MAX, u64::MAX - 40];
        joined(
            &all.map(|at| joined(&[&seek(SEEK_HEAD, at), &seek(CUES, at), &seek(INFO, at)]))
                .each_ref()
                .map(Vec::as_slice),
        )
    };
    let film = matroska(50_000, seeks, &cues, true);
    assert_eq!(whole(&film).index, [place(&film, &cues)]);
}

#[test]
fn playing_times_of_a_matroska_file() {
    let of = |fields: &[&[u8]]| {
        let content = joined(&[&element(INFO, &joined(fields)), &element(CLUSTER, &[0; 30])]);
        whole(&joined(&[&element(EBML, &[3; 20]), &element(SEGMENT, &content)])).duration
    };
    let duration = |units: f64| element(0x4489, &units.to_be_bytes());
    assert_eq!(of(&[&duration(90_500.0)]), DURATION);
    assert_eq!(of(&[&element(0x4489, &90_500f32.to_be_bytes())]), DURATION);
    for units in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::MAX] {
        assert_eq!(of(&[&duration(units)]), None, "{units}");
    }
    assert_eq!(of(&[&element(0x002A_D7B1, &[255; 8]), &duration(1e18)]), None);
    assert_eq!(of(&[&element(0x4489, &[1; 5])]), None);
    assert_eq!(of(&[&element(0x4489, &[])]), None);
}

#[test]
fn idx1_behind_movi() {
    let film = avi(&[], 5001);
    let found = whole(&film);
    assert_eq!(
        (found.index, found.duration),
        (vec![place(&film, &chunk(b"idx1", &[5; 320]))], Some(Duration::from_secs(90)))
    );
    assert_eq!(surveyed(&film, 512, 0, 512).1, 1);
    assert_eq!(surveyed(&film, 512, 512, 512).1, 0);
}

#[test]
fn an_avi_of_many_gib_has_many_indexes() {
    let entries = [(600u64, 100u32, 9u32), (900, 50, 9), (u64::MAX - 3, u32::MAX, 9), (4, 0, 9)];
    let entries =
        entries.map(|(at, size, time)| joined(&[&at.to_le_bytes(), &size.to_le_bytes(), &time.to_le_bytes()])).concat();
    let indx = |kind: u8| {
        let header = joined(&[&[4, 0, 0, kind, 200, 0, 0, 0], b"00dc", &[0; 12]]);
        list(b"strl", &chunk(b"indx", &joined(&[&header, &entries])))
    };
    let dmlh = list(b"odml", &chunk(b"dmlh", &joined(&[&4500u32.to_le_bytes(), &[0; 244]])));
    let film = avi(&joined(&[&indx(0), &indx(1), &dmlh]), 5000);
    let found = whole(&film);
    let idx1 = place(&film, &chunk(b"idx1", &[5; 320]));
    assert_eq!(found.index, [ByteRange::new(600, 700), ByteRange::new(900, 950), idx1]);
    assert_eq!(found.duration, Some(Duration::from_mins(3)));
}

#[test]
fn an_avi_that_was_never_finished() {
    let mut film = avi(&[], 5000);
    let movi = place(&film, b"movi").start as usize;
    film[movi - 4..movi].fill(0);
    assert_eq!(whole(&film).index, []);
    film[movi - 4..movi].fill(255);
    assert_eq!(whole(&film).index, []);
}

#[test]
fn other_files_have_nothing_to_tell() {
    for film in [
        &[0x47; 188 * 4][..],
        b"OggS\0\x02",
        b"RIFF\0\0\0\0WAVEfmt ",
        b"#!/bin/sh\n",
        &[0; 4000],
        &[255; 4000],
        b"ftyp",
    ] {
        assert_eq!(whole(film), Survey::default());
    }
    assert_eq!(survey(0, &[]), Survey::default());
    assert_eq!(survey(1 << 40, &[]).next, Some(ByteRange::new(0, 12)));
}

#[test]
fn sizes_that_lie() {
    // Zero, smaller than a header, beyond the end, beyond all numbers: nothing loops, nothing leaves the file.
    for size in [2u32, 7, 8, 9, 0x7fff_ffff, u32::MAX] {
        let film = joined(&[&ftyp(), &size.to_be_bytes(), b"moov", &[0; 90]]);
        assert!(whole(&film).index.len() <= 1);
    }
    for size in [0, 8, 15, 16, 1 << 40, u64::MAX, u64::MAX - 40] {
        let film = joined(&[&ftyp(), &1u32.to_be_bytes(), b"mdat", &size.to_be_bytes(), &moov()]);
        assert!(whole(&film).index.len() <= 1);
    }
    // A head that could go on for ever, a file without end.
    let film = boxed(b"free", &[]).repeat(100_000);
    assert_eq!(whole(&film), Survey::default());
    let head = joined(&[&ftyp(), &1u32.to_be_bytes(), b"mdat", &(u64::MAX - 100).to_be_bytes()]);
    let found = survey(u64::MAX, &[Piece { offset: 0, bytes: &head }, Piece { offset: u64::MAX, bytes: &head }]);
    assert_eq!(found.next, Some(ByteRange::at(u64::MAX - 100 + 20, 16)));
    // An index is cut to what it may cost.
    let head = joined(&[&ftyp(), &u32::MAX.to_be_bytes(), b"moov", &[0; 8]]);
    let found = survey(u64::MAX, &[Piece { offset: 0, bytes: &head }]);
    assert_eq!(found.index, [ByteRange::at(20, INDEX_BYTES_MAX)]);
}

fn films() -> Vec<Vec<u8>> {
    let cues = element(CUES, &[8; 30]);
    let mfra = boxed(b"mfra", &boxed(b"mfro", &[0, 0, 0, 0, 0, 0, 0, 24]));
    vec![
        joined(&[&ftyp(), &boxed_long(b"mdat", &[9; 50]), &moov()]),
        joined(&[&ftyp(), &moov(), &boxed(b"sidx", &[4; 8]), &boxed(b"moof", &[0; 8]), &mfra]),
        matroska(50, |at| joined(&[&seek(SEEK_HEAD, 0), &seek(CUES, at), &seek(INFO, 41)]), &cues, true),
        avi(&list(b"strl", &chunk(b"indx", &[0; 60])), 50),
    ]
}

#[test]
fn cut_off_anywhere() {
    for film in films() {
        for len in 0..film.len() {
            surveyed(&film[..len], 16, 16, 8);
            whole(&film[..len]);
        }
    }
}

proptest! {
    #[test]
    fn any_change_of_a_film(
        film in prop::sample::select(films()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..8),
        (head, tail, block) in (0usize..200, 0usize..200, 1usize..100),
    ) {
        let mut film = film;
        for (at, value) in changes {
            let at = at.index(film.len());
            film[at] = value;
        }
        let (found, _) = surveyed(&film, head, tail, block);
        prop_assert_eq!(found, whole(&film));
    }

    #[test]
    fn any_pieces_of_a_film(
        film in prop::sample::select(films()),
        size in prop_oneof![0u64..2000, any::<u64>()],
        cuts in prop::collection::vec((any::<prop::sample::Index>(), 0usize..200, prop_oneof![Just(None), any::<u64>().prop_map(Some)]), 0..6),
    ) {
        let pieces: Vec<_> = cuts
            .iter()
            .map(|(at, len, offset)| {
                let at = at.index(film.len());
                Piece { offset: offset.unwrap_or(at as u64), bytes: &film[at..(at + len).min(film.len())] }
            })
            .collect();
        check(&survey(size, &pieces), size, &pieces);
    }
}
