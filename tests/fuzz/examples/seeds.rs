//! Writes each target's seeds to `corpus/<target>/`, where the fuzzer begins.

use std::path::Path;

fn main() -> std::io::Result<()> {
    for target in ["sse", "eventstream", "reply", "universal"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("corpus")
            .join(target);
        std::fs::create_dir_all(&folder)?;
        for (number, seed) in fuzz::seeds(target).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number}")), seed)?;
        }
    }
    Ok(())
}
