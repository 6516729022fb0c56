//! Which of the gateway's own variables an engine inherits: those that engines are known to need, and no others.
//!
//! A gateway's environment holds the keys of clouds, passwords of databases and whatever else its operator keeps there,
//! under names that cannot be foreseen. An engine needs where programs, libraries, devices and models are, and how its
//! libraries are tuned. All else is for the models file to name (`env`). The same holds for the program that counts
//! prompts.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};

/// Whole names.
const NAMES: &[&str] = &[
    // Where things are, and who this is.
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "TMPDIR",
    "TMP",
    "TEMP",
    "TZ",
    "TERM",
    "LANG",
    "LANGUAGE",
    // Libraries, also those of Nix and Guix.
    "LD_LIBRARY_PATH",
    "LOCPATH",
    "LOCALE_ARCHIVE",
    "NIX_LD",
    "NIX_LD_LIBRARY_PATH",
    "GUIX_PROFILE",
    "GUIX_LOCPATH",
    "GLIBC_TUNABLES",
    "CONDA_PREFIX",
    "VIRTUAL_ENV",
    // Certificates, for models that are fetched.
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    // Threads.
    "GOTO_NUM_THREADS",
    "CMPLR_ROOT",
    "TBBROOT",
];

/// How names begin: of locales and folders; of devices and their libraries; of the engine itself.
const BEGINNINGS: &[&str] = &[
    "LC_",
    "XDG_",
    "CUDA_",
    "CUBLAS_",
    "NCCL_",
    "NVIDIA_",
    "HIP_",
    "HIPBLASLT_",
    "ROCM_",
    "ROCR_",
    "ROCBLAS_",
    "TENSILE_",
    "HSA_",
    "AMD_",
    "GPU_",
    "MUSA_",
    "ASCEND_",
    "SYCL_",
    "ONEAPI_",
    "ZE_",
    "ZES_",
    "UR_",
    "IGC_",
    "OCL_",
    "POCL_",
    "VK_",
    "MESA_",
    "RADV_",
    "ANV_",
    "LIBVA_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "MKL_",
    "OPENBLAS_",
    "BLIS_",
    "MALLOC_",
    "GGML_",
    "LLAMA_",
    "HF_",
];

/// Proxies, in either case: without the password that such an address may hold.
const PROXIES: &[&str] = &["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "FTP_PROXY"];

/// Parts of a name, between its underscores, that make it a secret all the same.
const SECRETS: &[&str] = &[
    "KEY",
    "KEYS",
    "APIKEY",
    "TOKEN",
    "SECRET",
    "SECRETS",
    "PASS",
    "PASSWD",
    "PASSWORD",
    "PASSPHRASE",
    "CREDENTIAL",
    "CREDENTIALS",
    "AUTH",
    "BEARER",
    "COOKIE",
    "PAT",
    "DSN",
];

/// An engine would believe that it is the child of a router, and end with it.
const NOT_FOR_CHILDREN: &[&str] = &["LLAMA_SERVER_ROUTER_PORT"];

/// The variables of this process that its engines inherit, without those that the models file reads for others.
pub(super) fn inherited(withheld: &BTreeSet<String>) -> impl Iterator<Item = (OsString, OsString)> {
    std::env::vars_os().filter(|(name, value)| {
        name.to_str().is_some_and(|name| !withheld.contains(name) && is_inherited(name, value))
    })
}

fn is_inherited(name: &str, value: &OsStr) -> bool {
    let upper = name.to_ascii_uppercase();
    if PROXIES.contains(&upper.as_str()) {
        // `http://user:password@host:port`, or without the scheme.
        return value.to_str().is_some_and(|value| !value.contains('@'));
    }
    let is_needed = NAMES.contains(&name) || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning));
    let is_secret = upper.split('_').any(|part| SECRETS.contains(&part));
    is_needed && !is_secret && !has_credentials(value) && !NOT_FOR_CHILDREN.contains(&name)
}

/// Whether it is an address with a user or a password in it.
fn has_credentials(value: &OsStr) -> bool {
    let value = value.to_string_lossy();
    value.split_once("://").is_some_and(|(_, rest)| rest.contains('@'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_inherit_what_they_need() {
        for name in [
            "PATH",
            "HOME",
            "LD_LIBRARY_PATH",
            "LC_ALL",
            "XDG_CACHE_HOME",
            "CUDA_VISIBLE_DEVICES",
            "GGML_VK_VISIBLE_DEVICES",
            "HSA_OVERRIDE_GFX_VERSION",
            "HF_HOME",
            "LLAMA_CACHE",
            "LLAMA_ARG_THREADS",
            "LLAMA_ARG_IMAGE_MAX_TOKENS",
            "OMP_NUM_THREADS",
            "ONEAPI_DEVICE_SELECTOR",
        ] {
            assert!(is_inherited(name, OsStr::new("x")), "{name}");
        }
    }

    #[test]
    fn engines_inherit_nothing_else() {
        for name in [
            "LLM_PROXY_API_AUTH_TOKENS",
            "CLOUD_KEY",
            "PROVIDER_PASS",
            "AZURE_OPENAI_KEY",
            "ANTHROPIC_AUTH",
            "PGPASS",
            "REDIS_URL",
            "MONGO_URI",
            "MY_TOKEN_2",
            "BEARER",
            "GITHUB_PAT",
            "DATABASE_URL",
            "SENTRY_DSN",
            "NOTIFY_SOCKET",
            "LISTEN_FDS",
            "LD_PRELOAD",
            "TOKENIZERS_PARALLELISM",
            "SOMETHING_HARMLESS",
            "path",
            // Of the families that are needed.
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "LLAMA_API_KEY",
            "LLAMA_CLOUD_API_KEY",
            "NVIDIA_API_KEY",
            "NVIDIA_NGC_API_KEY",
            "LLAMA_SERVER_ROUTER_PORT",
        ] {
            assert!(!is_inherited(name, OsStr::new("x")), "{name}");
        }
    }

    #[test]
    fn a_proxy_is_inherited_without_a_password_only() {
        for name in ["HTTPS_PROXY", "https_proxy", "all_proxy"] {
            assert!(is_inherited(name, OsStr::new("http://proxy:3128")), "{name}");
            assert!(!is_inherited(name, OsStr::new("http://me:secret@proxy:3128")), "{name}");
        }
        assert!(!is_inherited("MY_PROXY", OsStr::new("http://proxy")));
    }

    #[test]
    fn what_the_models_file_reads_for_others_is_withheld() {
        let has_path = |withheld: &[&str]| {
            let withheld = withheld.iter().map(|&name| name.to_owned()).collect();
            inherited(&withheld).any(|(name, _)| name == "PATH")
        };
        assert!(has_path(&[]) && !has_path(&["PATH"]));
    }
}
