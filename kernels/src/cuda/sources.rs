//! The sources, each as the one text that NVRTC takes.

/// A file of kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Source {
    SgmvShrink,
    SgmvExpand,
    BgmvShrink,
    BgmvExpand,
    AttentionDecode,
    AttentionPrefill,
    KvWrite,
    RmsNorm,
    Rope,
    QuantizedRows,
    QuantizedMatmul,
}

const COMMON: &str = include_str!("../../cuda/common.cuh");
const LORA: &str = include_str!("../../cuda/lora.cuh");
const PAGED: &str = include_str!("../../cuda/paged.cuh");
const GGUF: &str = include_str!("../../cuda/gguf.cuh");

impl Source {
    pub const ALL: [Source; 11] = [
        Source::SgmvShrink,
        Source::SgmvExpand,
        Source::BgmvShrink,
        Source::BgmvExpand,
        Source::AttentionDecode,
        Source::AttentionPrefill,
        Source::KvWrite,
        Source::RmsNorm,
        Source::Rope,
        Source::QuantizedRows,
        Source::QuantizedMatmul,
    ];

    /// Its name, its header beside the common one, and what it says.
    fn parts(self) -> (&'static str, &'static str, &'static str) {
        macro_rules! file {
            ($name:literal, $header:expr) => {
                ($name, $header, include_str!(concat!("../../cuda/", $name)))
            };
        }
        match self {
            Source::SgmvShrink => file!("sgmv_shrink.cu", LORA),
            Source::SgmvExpand => file!("sgmv_expand.cu", LORA),
            Source::BgmvShrink => file!("bgmv_shrink.cu", LORA),
            Source::BgmvExpand => file!("bgmv_expand.cu", LORA),
            Source::AttentionDecode => file!("attention_decode.cu", PAGED),
            Source::AttentionPrefill => file!("attention_prefill.cu", PAGED),
            Source::KvWrite => file!("kv_write.cu", PAGED),
            Source::RmsNorm => file!("rms_norm.cu", ""),
            Source::Rope => file!("rope.cu", ""),
            Source::QuantizedRows => file!("quantized_rows.cu", GGUF),
            Source::QuantizedMatmul => file!("quantized_matmul.cu", GGUF),
        }
    }

    pub fn file(self) -> &'static str {
        self.parts().0
    }

    /// Its headers and itself in one: NVRTC has no folder to look for them.
    pub fn text(self) -> String {
        let (_, header, own) = self.parts();
        let is_kept = |line: &&str| {
            let line = line.trim_start();
            !line.starts_with("#pragma once") && !line.starts_with("#include \"")
        };
        let lines = [COMMON, header, own].into_iter().flat_map(str::lines);
        let mut text = String::new();
        for line in lines.filter(is_kept) {
            text.push_str(line);
            text.push('\n');
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_needs_no_other_file_and_every_file_has_a_source() {
        for source in Source::ALL {
            let text = source.text();
            assert!(!text.contains("#include \"") && !text.contains("#pragma once"));
            assert!(text.contains("KERNEL("), "{}", source.file());
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/cuda");
        let entries = std::fs::read_dir(folder).expect("the sources");
        let names = entries.map(|entry| entry.expect("an entry").file_name());
        for name in names.filter_map(|name| name.into_string().ok()) {
            let is_known = Source::ALL.iter().any(|source| source.file() == name);
            assert!(is_known || !name.ends_with(".cu"), "{name}");
        }
    }

    #[test]
    fn nvrtc_compiles_every_text() {
        if !super::super::device::has_compiler() {
            println!("SKIPPED: CUDA sources compiled by NVRTC, as libnvrtc was not found");
            return;
        }
        for source in Source::ALL {
            let ptx =
                super::super::device::compile(source).unwrap_or_else(|error| panic!("{error}"));
            assert!(
                ptx.to_src().contains(".visible .entry"),
                "{}",
                source.file()
            );
        }
    }
}
