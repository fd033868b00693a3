//! The tables of the last known tree: what folders held, and what files were, when their origin last said so.
//! Never here: threads, and who may still be reading a listing (see `cache::tree`).

use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::Index;
use crate::error::Result;
use crate::sqlite::{loaded, nanos, stored, time};
use crate::store::{LINK_ENDING, Listed, ListedKind, PAGE_NAMES_MAX, Stat, Version};

/// Names read, and removed, at once.
pub const NAMES_PAGE: usize = PAGE_NAMES_MAX;

/// A migration's tables.
pub(super) const TABLES: &str = "
    CREATE TABLE tree_listings (
        listing_id INTEGER PRIMARY KEY AUTOINCREMENT, -- a folder listed anew is another listing: two never mix
        origin     TEXT    NOT NULL,
        folder     TEXT    NOT NULL,
        listed_at  INTEGER NOT NULL,                  -- 0: to be asked for again, however young
        names      INTEGER NOT NULL,
        size_bytes INTEGER NOT NULL,                  -- of all its files, as far as they are told
        is_current INTEGER NOT NULL                   -- 0: still coming, or given way to a newer one
    );
    CREATE UNIQUE INDEX tree_listings_current ON tree_listings (origin, folder) WHERE is_current = 1;
    CREATE TABLE tree_names (
        listing_id INTEGER NOT NULL,
        name       TEXT    NOT NULL,
        is_folder  INTEGER NOT NULL,                  -- 1; 0: a file, 2: a symbolic link
        size_bytes INTEGER,
        modified   INTEGER,                           -- nanoseconds since 1970: told times are compared
        PRIMARY KEY (listing_id, name)
    ) WITHOUT ROWID;
    CREATE TABLE tree_stats (
        origin     TEXT    NOT NULL,
        folder     TEXT    NOT NULL,
        name       TEXT    NOT NULL,
        size_bytes INTEGER NOT NULL,
        modified   INTEGER,
        version    TEXT    NOT NULL,
        PRIMARY KEY (origin, folder, name)
    ) WITHOUT ROWID;
";

/// As `is_folder` has it.
const FILE: i64 = 0;
const FOLDER: i64 = 1;
const LINK: i64 = 2;

const NAME_COLUMNS: &str = "name, is_folder, size_bytes, modified";

/// A row of `tree_listings`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListingRow {
    /// Names its names.
    pub listing_id: i64,
    /// Microseconds since 1970.
    pub listed_at: i64,
    /// How many there are.
    pub names: u64,
    /// Of all files together.
    pub size_bytes: u64,
}

impl Index {
    /// The listing of a folder that counts now.
    pub fn current_listing(&self, origin: &str, folder: &str) -> Result<Option<ListingRow>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT listing_id, listed_at, names, size_bytes FROM tree_listings
                     WHERE origin = ?1 AND folder = ?2 AND is_current = 1",
                )?
                .query_row([origin, folder], |row| {
                    let (listing_id, listed_at) = (row.get(0)?, row.get(1)?);
                    Ok(ListingRow {
                        listing_id,
                        listed_at,
                        names: loaded(row.get(2)?),
                        size_bytes: loaded(row.get(3)?),
                    })
                })
                .optional()
        })
    }

    /// Whether this listing is the one of its folder that counts.
    pub fn is_current_listing(&self, listing_id: i64) -> Result<bool> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT 1 FROM tree_listings WHERE listing_id = ?1 AND is_current = 1")?
                .exists([listing_id])
        })
    }

    /// A page of a listing's names, sorted: those after `after`, or the first ones.
    pub fn listed_names(&self, listing_id: i64, after: Option<&str>) -> Result<Vec<Listed>> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!(
                    "SELECT {NAME_COLUMNS} FROM tree_names WHERE listing_id = ?1 AND name > ?2
                     ORDER BY name LIMIT {NAMES_PAGE}"
                ))?
                // No name is empty.
                .query_map(params![listing_id, after.unwrap_or_default()], listed)?
                .collect()
        })
    }

    /// One name of a listing.
    pub fn listed_name(&self, listing_id: i64, name: &str) -> Result<Option<Listed>> {
        self.read(|connection| {
            connection
                .prepare_cached(&format!("SELECT {NAME_COLUMNS} FROM tree_names WHERE listing_id = ?1 AND name = ?2"))?
                .query_row(params![listing_id, name], listed)
                .optional()
        })
    }

    /// What a file was when it was last asked about.
    pub fn known_stat(&self, origin: &str, folder: &str, name: &str) -> Result<Option<Stat>> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT size_bytes, modified, version FROM tree_stats
                     WHERE origin = ?1 AND folder = ?2 AND name = ?3",
                )?
                .query_row([origin, folder, name], |row| {
                    let modified = row.get::<_, Option<i64>>(1)?.map(time);
                    let version = Version::from_stored(row.get(2)?);
                    Ok(Stat { size_bytes: loaded(row.get(0)?), modified, version })
                })
                .optional()
        })
    }

    /// Listings that count no more, or never came to: their names can go, unless somebody reads them.
    pub fn stale_listings(&self) -> Result<Vec<i64>> {
        self.read(|connection| {
            connection
                .prepare_cached("SELECT listing_id FROM tree_listings WHERE is_current = 0")?
                .query_map([], |row| row.get(0))?
                .collect()
        })
    }

    /// Names of all listings that count, and the one of them that is oldest.
    pub fn listed_in_all(&self) -> Result<(u64, Option<i64>)> {
        self.read(|connection| {
            connection
                .prepare_cached(
                    "SELECT coalesce(sum(names), 0),
                            (SELECT listing_id FROM tree_listings WHERE is_current = 1 ORDER BY listed_at, listing_id LIMIT 1)
                     FROM tree_listings WHERE is_current = 1",
                )?
                .query_row([], |row| Ok((loaded(row.get(0)?), row.get(1)?)))
        })
    }

    /// Begins a listing; it counts once it is finished.
    pub fn begin_listing(&self, origin: &str, folder: &str) -> Result<i64> {
        self.write(|connection| {
            connection
                .prepare_cached(
                    "INSERT INTO tree_listings (origin, folder, listed_at, names, size_bytes, is_current)
                     VALUES (?1, ?2, 0, 0, 0, 0) RETURNING listing_id",
                )?
                .query_row([origin, folder], |row| row.get(0))
        })
    }

    /// Adds names to a listing that was begun. Of a name that comes twice, the first counts. How many were new, and
    /// their bytes.
    pub fn add_names(&self, listing_id: i64, names: &[Listed]) -> Result<(u64, u64)> {
        self.write(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT OR IGNORE INTO tree_names VALUES (?1, ?2, ?3, ?4, ?5)")?;
            let (mut added, mut bytes) = (0, 0_u64);
            for listed in names {
                let (kind, size) = match listed.kind {
                    ListedKind::File { size_bytes } => (FILE, size_bytes),
                    ListedKind::Folder => (FOLDER, None),
                    ListedKind::Link { size_bytes } => (LINK, size_bytes),
                };
                let modified = listed.modified.and_then(nanos);
                let new = insert.execute(params![listing_id, &*listed.name, kind, size.map(stored), modified])?;
                if new > 0 {
                    added += 1;
                    bytes = bytes.saturating_add(size.filter(|_| kind == FILE).unwrap_or(0));
                }
            }
            Ok((added, bytes))
        })
    }

    /// From now on this listing counts, and what it does not hold is gone: the stats of such files, the listings of such
    /// folders. Answers the listings that count no more.
    pub fn finish_listing(&self, listing: &ListingRow, origin: &str, folder: &str) -> Result<Vec<i64>> {
        self.write(|connection| {
            let mut stale = retire(connection, "folder = ?2", params![origin, folder])?;
            connection
                .prepare_cached(
                    "UPDATE tree_listings SET listed_at = ?2, names = ?3, size_bytes = ?4, is_current = 1
                     WHERE listing_id = ?1",
                )?
                .execute(params![
                    listing.listing_id,
                    listing.listed_at,
                    stored(listing.names),
                    stored(listing.size_bytes)
                ])?;
            connection
                .prepare_cached(
                    "DELETE FROM tree_stats WHERE origin = ?1 AND folder = ?2 AND NOT EXISTS
                     (SELECT 1 FROM tree_names n WHERE n.listing_id = ?3 AND n.name = tree_stats.name AND n.is_folder = 0)
                     AND NOT (substr(name, -length(?4)) = ?4 AND EXISTS
                     (SELECT 1 FROM tree_names n WHERE n.listing_id = ?3 AND n.is_folder = 2
                      AND n.name = substr(tree_stats.name, 1, length(tree_stats.name) - length(?4))))",
                )?
                .execute(params![origin, folder, listing.listing_id, LINK_ENDING])?;
            for gone in folders_gone(connection, origin, folder, listing.listing_id)? {
                stale.extend(remove_tree(connection, origin, &gone)?);
            }
            Ok(stale)
        })
    }

    /// A listing was found to be the same as before, at this time.
    pub fn confirm_listing(&self, listing_id: i64, listed_at: i64) -> Result<()> {
        self.write(|connection| {
            connection
                .prepare_cached("UPDATE tree_listings SET listed_at = ?2 WHERE listing_id = ?1")?
                .execute([listing_id, listed_at])
                .map(|_| ())
        })
    }

    /// Takes up to a page of names out of a listing that counts no more; `false` when none is left, nor the listing.
    pub fn remove_names(&self, listing_id: i64) -> Result<bool> {
        self.write(|connection| {
            let removed = connection
                .prepare_cached(&format!(
                    "DELETE FROM tree_names WHERE listing_id = ?1 AND name IN
                     (SELECT name FROM tree_names WHERE listing_id = ?1 LIMIT {NAMES_PAGE})"
                ))?
                .execute([listing_id])?;
            if removed == NAMES_PAGE {
                return Ok(true);
            }
            connection.prepare_cached("DELETE FROM tree_listings WHERE listing_id = ?1")?.execute([listing_id])?;
            Ok(false)
        })
    }

    /// A folder is gone, and all below it. Answers the listings that count no more.
    pub fn remove_folder(&self, origin: &str, folder: &str) -> Result<Vec<i64>> {
        self.write(|connection| remove_tree(connection, origin, folder))
    }

    /// One listing gives way, with the stats of its files.
    pub fn retire_listing(&self, listing_id: i64) -> Result<()> {
        self.write(|connection| {
            connection.execute(
                "DELETE FROM tree_stats WHERE (origin, folder) =
                 (SELECT origin, folder FROM tree_listings WHERE listing_id = ?1)",
                [listing_id],
            )?;
            connection
                .execute("UPDATE tree_listings SET is_current = 0 WHERE listing_id = ?1", [listing_id])
                .map(|_| ())
        })
    }

    /// A folder, and all below it, is to be asked for again, however young what is known of it.
    pub fn expire_listings(&self, origin: &str, folder: &str) -> Result<()> {
        let (from, to) = below(folder);
        self.write(|connection| {
            connection
                .execute(
                    "UPDATE tree_listings SET listed_at = 0
                     WHERE origin = ?1 AND is_current = 1 AND (folder = ?2 OR (folder >= ?3 AND folder < ?4))",
                    [origin, folder, &from, &to],
                )
                .map(|_| ())
        })
    }

    /// Notes what files are: folder, name, stat.
    pub fn note_stats(&self, origin: &str, stats: &[(String, String, Stat)]) -> Result<()> {
        self.write(|connection| {
            let mut insert =
                connection.prepare_cached("INSERT OR REPLACE INTO tree_stats VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?;
            for (folder, name, stat) in stats {
                let (size, modified) = (stored(stat.size_bytes), stat.modified.and_then(nanos));
                insert.execute(params![origin, folder, name, size, modified, stat.version.as_str()])?;
            }
            Ok(())
        })
    }

    /// What is noted of the files of these names goes.
    pub fn remove_stats(&self, origin: &str, folder: &str, names: &[Box<str>]) -> Result<()> {
        self.write(|connection| {
            let mut remove =
                connection.prepare_cached("DELETE FROM tree_stats WHERE origin = ?1 AND folder = ?2 AND name = ?3")?;
            names.iter().try_for_each(|name| remove.execute([origin, folder, name]).map(|_| ()))
        })
    }
}

/// Listings of the origin `?1` that match, and that count: no more from now on.
fn retire(connection: &Connection, which: &str, values: impl rusqlite::Params) -> rusqlite::Result<Vec<i64>> {
    connection
        .prepare_cached(&format!(
            "UPDATE tree_listings SET is_current = 0 WHERE origin = ?1 AND is_current = 1 AND {which}
             RETURNING listing_id"
        ))?
        .query_map(values, |row| row.get(0))?
        .collect()
}

fn remove_tree(connection: &Connection, origin: &str, folder: &str) -> rusqlite::Result<Vec<i64>> {
    let (from, to) = below(folder);
    let which = "(folder = ?2 OR (folder >= ?3 AND folder < ?4))";
    connection
        .prepare_cached(&format!("DELETE FROM tree_stats WHERE origin = ?1 AND {which}"))?
        .execute([origin, folder, &from, &to])?;
    retire(connection, which, [origin, folder, &from, &to])
}

/// Folders directly in `folder` that have a listing, but no name in this one.
fn folders_gone(connection: &Connection, origin: &str, folder: &str, listing_id: i64) -> rusqlite::Result<Vec<String>> {
    let (from, to) = below(folder);
    connection
        .prepare_cached(
            "SELECT folder FROM tree_listings
             WHERE origin = ?1 AND is_current = 1 AND folder >= ?2 AND folder < ?3 AND folder <> ''
               AND instr(substr(folder, length(?2) + 1), '/') = 0
               AND NOT EXISTS (SELECT 1 FROM tree_names n WHERE n.listing_id = ?4 AND n.is_folder = 1
                               AND n.name = substr(tree_listings.folder, length(?2) + 1))",
        )?
        .query_map(params![origin, from, to, listing_id], |row| row.get(0))?
        .collect()
}

/// All paths below a folder: from the first on, up to the second.
fn below(folder: &str) -> (String, String) {
    if folder.is_empty() {
        // Behind everything that is UTF-8.
        (String::new(), char::MAX.to_string())
    } else {
        // `0` is the character behind `/`.
        (format!("{folder}/"), format!("{folder}0"))
    }
}

fn listed(row: &Row<'_>) -> rusqlite::Result<Listed> {
    let size_bytes = row.get::<_, Option<i64>>(2)?.map(loaded);
    let kind = match row.get::<_, i64>(1)? {
        FILE => ListedKind::File { size_bytes },
        LINK => ListedKind::Link { size_bytes },
        _ => ListedKind::Folder,
    };
    Ok(Listed { name: row.get(0)?, kind, modified: row.get::<_, Option<i64>>(3)?.map(time) })
}
