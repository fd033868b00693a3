//! Buckets of clouds that are built in by a Cargo feature each; who asks is told by the variables of their makers' tools.
//! Never here: S3, which everybody speaks.

use std::env;

use opendal::{Operator, Result};

/// Where they are asked, for connections made ahead.
#[cfg(feature = "gcs")]
pub(super) const GCS_ENDPOINT: &str = "https://storage.googleapis.com";
#[cfg(feature = "azblob")]
pub(super) const AZBLOB_ENDPOINT: &str = "https://blob.core.windows.net";

/// A bucket at Google, signed for with the account that `GOOGLE_APPLICATION_CREDENTIALS` or gcloud's own login names;
/// without either it is asked as anybody may.
#[cfg(feature = "gcs")]
pub(super) fn gcs(bucket: &str) -> Result<Operator> {
    // A workstation has no instance metadata: asking for it would only wait.
    let mut service = opendal::services::Gcs::default().bucket(bucket).disable_vm_metadata();
    if let Ok(endpoint) = env::var("STORAGE_EMULATOR_HOST") {
        service = service.endpoint(&endpoint);
    }
    let home = env::var_os("HOME").unwrap_or_default();
    let login = std::path::Path::new(&home).join(".config/gcloud/application_default_credentials.json");
    if env::var_os("GOOGLE_APPLICATION_CREDENTIALS").is_none() && !login.is_file() {
        service = service.skip_signature();
    }
    Operator::new(service)
}

/// Whose containers are asked for; empty if nobody said.
#[cfg(feature = "azblob")]
pub(super) fn azblob_account() -> String {
    let connection = env::var("AZURE_STORAGE_CONNECTION_STRING").unwrap_or_default();
    let named = connection.split(';').find_map(|part| part.strip_prefix("AccountName=")).map(str::to_owned);
    named.or_else(|| env::var("AZURE_STORAGE_ACCOUNT").ok()).unwrap_or_default()
}

/// A container at Azure: of the account that `AZURE_STORAGE_CONNECTION_STRING` or `AZURE_STORAGE_ACCOUNT` names, with
/// `AZURE_STORAGE_KEY` or `AZURE_STORAGE_SAS_TOKEN`; without these it is asked as anybody may.
#[cfg(feature = "azblob")]
pub(super) fn azblob(container: &str) -> Result<Operator> {
    use opendal::services::Azblob;
    if let Ok(connection) = env::var("AZURE_STORAGE_CONNECTION_STRING") {
        return Operator::new(Azblob::from_connection_string(&connection)?.container(container));
    }
    let account = env::var("AZURE_STORAGE_ACCOUNT").map_err(|_| {
        opendal::Error::new(opendal::ErrorKind::ConfigInvalid, "set AZURE_STORAGE_ACCOUNT to the account it is of")
    })?;
    let endpoint = format!("https://{account}.blob.core.windows.net");
    let service = Azblob::default().container(container).endpoint(&endpoint).account_name(&account);
    Operator::new(match (env::var("AZURE_STORAGE_KEY"), env::var("AZURE_STORAGE_SAS_TOKEN")) {
        (Ok(key), _) => service.account_key(&key),
        (_, Ok(token)) => service.sas_token(&token),
        _ => service.skip_signature(),
    })
}
