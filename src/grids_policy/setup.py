from setuptools import find_packages, setup

NAME = "grids_policy"

setup(
    name=NAME,
    version="0.1.0",
    packages=find_packages(),
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
    ],
    entry_points={"console_scripts": [f"policy = {NAME}.node.policy:main"]},
    zip_safe=True,
    maintainer="GridS stack maintainers",
    maintainer_email="maintainers@example.org",
    description="GridS-SmolVLA: model, export and policy node.",
    license="Apache-2.0",
)
