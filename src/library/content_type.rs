//! What kind of file a name promises, where nobody said it.
//! Never here: what is in the file.

/// The MIME type that the ending of a name stands for, if it is a known one.
pub fn of_name(path: &str) -> Option<String> {
    let name = path.rsplit('/').next().unwrap_or(path);
    mime_guess::from_path(name).first_raw().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endings_tell_types() {
        for (path, content_type) in [
            ("films/a.mkv", Some("video/x-matroska")),
            ("a.MP4", Some("video/mp4")),
            ("a.b/c.srt", Some("application/x-subrip")),
            ("a.mkv/none", None),
            ("none", None),
            (".mkv", None),
            ("a.", None),
            ("a.unheard-of", None),
        ] {
            assert_eq!(of_name(path).as_deref(), content_type, "{path}");
        }
    }
}
