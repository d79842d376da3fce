//! Words for people.

/// `1 standby`, `2 standbys`.
pub fn count(n: impl Into<u64>, noun: &str) -> String {
    let n = n.into();
    let plural = if n == 1 { "" } else { "s" };
    format!("{n} {noun}{plural}")
}

#[cfg(test)]
mod tests {
    use super::count;

    #[test]
    fn one_is_not_many() {
        let told: Vec<String> = (0u32..3).map(|n| count(n, "standby")).collect();
        assert_eq!(told, ["0 standbys", "1 standby", "2 standbys"]);
    }
}
