//! What names share: content that is kept once, outlives whoever reads it, goes with its last name, and is told when it rots.
//! Never here: names themselves.

use super::*;
use crate::digest::Digest;
use crate::library::Damage;
use crate::library::manifest::stretches;

#[test]
fn equal_content_is_kept_once_and_goes_with_its_last_name() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(3, 500);
    put(&library, "one", &film, &["a"]).unwrap();
    let before = home.keys().len();
    put(&library, "two", &film, &[]).unwrap();
    assert_eq!(home.keys().len(), before + 2, "a name and a reference");
    library.remove("one").unwrap();
    assert_eq!(read(&library, "two").unwrap(), film);
    assert_clean(&library, &home, "one is gone");
    library.remove("two").unwrap();
    assert!(own_keys(&home).len() > 8, "a reader may be in the middle of it");
    assert_eq!(library.gc(GRACE, false).unwrap(), Swept::default());
    assert_eq!(library.gc(NOW, true).unwrap(), Swept { files: 0, chunks: 8, bytes: 500 });
    assert_eq!(library.gc(NOW, false).unwrap(), Swept { files: 0, chunks: 8, bytes: 500 });
    assert_eq!(own_keys(&home), BTreeSet::new());
}

#[test]
fn content_that_is_being_removed_is_not_relied_upon() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(3, 500);
    put(&library, "one", &film, &[]).unwrap();
    let id = library.load("one").unwrap().id.unwrap();
    library.remove("one").unwrap();
    put(&library, "one", &film, &[]).unwrap();
    assert_eq!(library.load("one").unwrap().id, Some(id), "it waits, and can be taken again");
    assert_eq!(library.gc(NOW, false).unwrap().chunks, 0);
    library.remove("one").unwrap();
    assert_eq!(library.gc(NOW, false).unwrap().chunks, 8);
    put(&library, "one", &film, &[]).unwrap();
    assert_ne!(library.load("one").unwrap().id, Some(id), "a request to delete them may be on its way");
    assert_eq!(read(&library, "one").unwrap(), film);
    assert_clean(&library, &home, "put again");
    // A collector that takes no grace ends a draft rather than leaving a name without bytes.
    let mut writer = Writer::new(library.draft("slow", None).unwrap(), library.cut());
    writer.write(&film).unwrap();
    library.gc(NOW, false).unwrap();
    assert_eq!(writer.finish(Meta::now()).unwrap_err().kind(), Kind::Busy);
    assert_eq!(library.manifest("slow").unwrap_err().kind(), Kind::Missing);
}

#[test]
fn the_word_that_a_group_was_removed_goes_when_its_time_is_over() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let film = bytes(3, 500);
    put(&library, "one", &film, &[]).unwrap();
    let id = library.load("one").unwrap().id.unwrap();
    let chunk = keys::chunk(&id.chunk_prefix(), 2);
    library.remove("one").unwrap();
    library.gc(NOW, false).unwrap();
    library.gc(NOW, false).unwrap();
    assert!(library.is_swept(id).unwrap(), "however little grace there is");
    let age = || home.put(&[(id.swept(), Bytes::from_static(b"{\"since\":1}"))]).unwrap();
    // Of a sweep that was broken off.
    age();
    home.put(&[(chunk.clone(), Bytes::from_static(b"left over"))]).unwrap();
    library.gc(GRACE, false).unwrap();
    assert!(!home.keys().contains(&chunk) && library.is_swept(id).unwrap());
    age();
    library.gc(GRACE, false).unwrap();
    assert_eq!(home.keys(), [keys::SETTINGS]);
    put(&library, "one", &film, &[]).unwrap();
    assert_eq!(library.load("one").unwrap().id, Some(id));
}

#[test]
fn what_leads_to_a_file_is_put_back() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    put(&library, "film", &bytes(1, 500), &["a", "b"]).unwrap();
    put(&library, "small", b"small", &["a"]).unwrap();
    let id = library.load("film").unwrap().id.unwrap();
    home.delete(&[id.reference("film"), keys::tag("b", "film"), keys::tag("a", "small")]).unwrap();
    assert_eq!(findings(&library), []);
    assert_clean(&library, &home, "put back");
}

#[test]
fn a_reader_of_a_replaced_file_comes_to_its_end() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let (old, new) = (bytes(1, 300), bytes(2, 300));
    put(&library, "film", &old, &[]).unwrap();
    let manifest = library.manifest("film").unwrap();
    let first = library.chunk("film", &manifest, 0).unwrap();
    put(&library, "film", &new, &[]).unwrap();
    assert_eq!(read(&library, "film").unwrap(), new);
    let rest: Vec<_> = (1..5).map(|n| library.chunk("film", &manifest, n).unwrap()).collect();
    assert_eq!([&first[..], &rest.concat()].concat(), old);
    library.gc(NOW, false).unwrap();
    assert_eq!(library.chunk("film", &manifest, 1).unwrap_err().kind(), Kind::Changed);
    // One value has no old bytes.
    put(&library, "small", &bytes(1, 100), &[]).unwrap();
    let small = library.load("small").unwrap().manifest;
    assert!(matches!(small.content(), Content::Inline(_)));
}

fn sha256s(manifest: &Manifest) -> Vec<Digest> {
    let chunks = match manifest.content() {
        Content::Inline(bytes) => stretches(bytes),
        Content::Chunks(chunks) => chunks.clone(),
    };
    let digest = |chunk: Chunk| if let Proof::Sha256(digest) = chunk.proof { Some(digest) } else { None };
    chunks.into_iter().filter_map(digest).collect()
}

#[test]
fn each_flipped_bit_is_named_and_mended_and_never_shown() {
    let home = Arc::new(Memory::default());
    let library = library(&home);
    let films = [("chunked", bytes(1, 300)), ("small", bytes(2, 150))];
    for (path, film) in &films {
        put(&library, path, film, &["a"]).unwrap();
    }
    let mut dice = fastrand::Rng::with_seed(7);
    for (path, film) in &films {
        let sound = sha256s(&library.manifest(path).unwrap());
        for key in home.keys().into_iter().filter(|key| key == path || Id::of_chunk(key).is_some()) {
            let value = home.get(&key, ByteRange::new(0, 1 << 20)).unwrap();
            for _ in 0..200 {
                let mut flipped = value.to_vec();
                let bit = dice.usize(..flipped.len() * 8);
                flipped[bit / 8] ^= 1 << (bit % 8);
                home.put(&[(key.clone(), flipped.into())]).unwrap();
                match read(&library, path) {
                    Ok(shown) => assert_eq!(shown, *film, "{key}: bit {bit}"),
                    Err(_) => assert_ne!(findings(&library), [], "{key}: bit {bit}"),
                }
                // A manifest that leads to other chunks has nothing to be mended with.
                let is_mended = Id::of_chunk(&key).is_some() || *path == "small";
                for finding in findings(&library).into_iter().filter(|_| is_mended) {
                    if finding.sha256.is_none_or(|sha256| !sound.contains(&sha256)) {
                        continue;
                    }
                    let range = finding.range;
                    library.repair(&finding, &film[range.start as usize..range.end as usize]).unwrap();
                    assert_eq!(read(&library, path).unwrap(), *film, "{key}: bit {bit} mended");
                }
                home.put(&[(key.clone(), value.clone())]).unwrap();
            }
        }
    }
    let missing = own_keys(&home).into_iter().find(|key| key.ends_with("_chunk_3")).unwrap();
    home.delete(std::slice::from_ref(&missing)).unwrap();
    let found = findings(&library);
    assert_eq!((found.len(), found[0].what, &found[0].place, found[0].chunk), (1, Damage::Missing, &missing, Some(3)));
}
