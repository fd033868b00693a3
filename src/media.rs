//! What a file is by the ending of its name: a film, or anything else that players open.
//! Never here: what a file holds.

/// Names of films. A person who opens one wants its first pictures and its end at once; of anything else `file(1)` and
/// thumbnails get what they ask for. A scan does not go by names, see `drive/contact.rs`.
#[rustfmt::skip]
const FILMS: [&str; 26] = [
    "mp4", "m4v", "mov", "m4a", "3gp", "3g2", "f4v", "mkv", "webm", "mka", "avi", // containers that are understood
    "ts", "m2ts", "mts", "mpg", "mpeg", "vob", "wmv", "asf", "flv", "ogv", "ogg", "ogm", "mxf", "rm", "rmvb",
];
/// Films of rarer kinds, images of discs, and the files of a disc that lead to its films.
#[rustfmt::skip]
const OTHER_FILMS: [&str; 36] = [
    "3gpp", "m1v", "m2v", "mpe", "mpv", "m2p", "m2t", "tp", "trp", "tod", "evo", "ssif", "divx", "dv", "qt", "nut", "nsv", "ogx",
    "wtv", "ivf", "y4m", "mjpeg", "mjpg", "h264", "264", "h265", "265", "hevc", "av1", "obu", "iso", "ifo", "bup", "bdmv",
    "mpls", "clpi",
];
#[rustfmt::skip]
const SOUND: [&str; 30] = [
    "mp3", "flac", "opus", "oga", "spx", "wav", "w64", "aac", "ac3", "eac3", "ec3", "dts", "dtshd", "thd", "truehd", "mlp", "mp2",
    "mpa", "m4b", "wma", "aif", "aiff", "ape", "wv", "tta", "alac", "amr", "caf", "dsf", "dff",
];
const PICTURES: [&str; 15] =
    ["jpg", "jpeg", "png", "gif", "webp", "avif", "heic", "heif", "jxl", "bmp", "tif", "tiff", "tbn", "svg", "ico"];
const SUBTITLES: [&str; 15] =
    ["srt", "ass", "ssa", "sub", "idx", "sup", "vtt", "smi", "sami", "ttml", "dfxp", "sbv", "lrc", "mks", "stl"];
const PLAYLISTS: [&str; 8] = ["m3u", "m3u8", "pls", "xspf", "cue", "wpl", "asx", "strm"];

/// What macOS writes beside a file, under that file's name.
const SHADOW_START: &str = "._";

/// Whether a file is a film by its name.
pub fn is_film_name(path: &str) -> bool {
    ends_in(path, &FILMS)
}

/// Whether players open a file of this name: a film, sound, a picture, subtitles, a playlist.
pub fn is_media_name(path: &str) -> bool {
    let name = path.rsplit_once('/').map_or(path, |(_, name)| name);
    let tables: [&[&str]; 6] = [&FILMS, &OTHER_FILMS, &SOUND, &PICTURES, &SUBTITLES, &PLAYLISTS];
    !name.starts_with(SHADOW_START) && tables.iter().any(|endings| ends_in(name, endings))
}

fn ends_in(path: &str, endings: &[&str]) -> bool {
    path.rsplit_once('.').is_some_and(|(_, ending)| endings.iter().any(|known| ending.eq_ignore_ascii_case(known)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn films_and_what_players_open() {
        assert!(is_film_name("a/b.mkv") && is_film_name("B.MP4") && is_film_name("x.y.webm"));
        assert!(is_film_name("a.ts") && is_film_name("00001.M2TS") && is_film_name("VTS_01_1.VOB"));
        assert!(!is_film_name("mkv") && !is_film_name("a.srt") && !is_film_name("a.mkv/b"));
        for name in ["a.mkv", "a/b.SRT", "cover.JPG", "1.flac", "list.m3u8", "VIDEO_TS.IFO", "a.iso"] {
            assert!(is_media_name(name), "{name}");
        }
        for name in ["a.nfo", "mkv", "a.mkv.part", "a.mkv/b", ".DS_Store", "._a.mkv", "f/._a.mkv", "a.exe", ""] {
            assert!(!is_media_name(name), "{name}");
        }
    }
}
